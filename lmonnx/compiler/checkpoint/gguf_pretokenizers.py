r"""How `tokenizer.ggml.pre` says that text is cut before byte-level merges.

The patterns are those of the models' own tokenizer.json; llama.cpp rewrites some of them for its
regex engine and keeps the originals in comments.

Source:
    llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_bpe` and `llama_vocab::impl::load`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Step = dict[str, Any]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")

_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut, and what else comes with the name.

    Attributes:
        patterns: Each cuts what the one before left.
        composes: Unicode is composed (NFC) first.
        ignore_merges: A piece that is a token as it stands is not merged from bytes.
        add_bos: Whether texts begin with bos where no key says it.
    """

    patterns: tuple[str, ...]
    composes: bool = False
    ignore_merges: bool = False
    add_bos: bool = False

    def steps(self) -> Step:
        """Return the `pre_tokenizer` of tokenizer.json."""
        cuts: list[Step] = [
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": False,
            }
            for pattern in self.patterns
        ]
        return {"type": "Sequence", "pretokenizers": [*cuts, byte_level()]}


def byte_level() -> Step:
    """Return the step that spells bytes as the 256 letters of GPT-2's vocabulary."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }


_GPT2_RULE = PreTokenizer((_GPT2,))
_NEOX_RULE = PreTokenizer((_GPT2,), composes=True)
_DIGITS_RULE = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3_RULE = PreTokenizer((_CL100K,), ignore_merges=True, add_bos=True)
_CL100K_RULE = PreTokenizer((_CL100K,))
_O200K_RULE = PreTokenizer((_O200K,))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer(_DEFAULT),
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "olmo": _NEOX_RULE,
    "mpt": _NEOX_RULE,
    "starcoder": _DIGITS_RULE,
    "refact": _DIGITS_RULE,
    "smollm": _DIGITS_RULE,
    "codeshell": _DIGITS_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "falcon3": _LLAMA3_RULE,
    "smaug-bpe": _CL100K_RULE,
    "dbrx": _CL100K_RULE,
    "qwen2": PreTokenizer((_QWEN2,), composes=True),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,)),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": _O200K_RULE,
    "llama4": _O200K_RULE,
}

# Files of before May 2024 name none; these architectures have one tokenizer each.
BY_ARCHITECTURE = {"gpt2": "gpt-2", "gptneox": "olmo", "qwen2": "qwen2", "qwen3": "qwen2"}
