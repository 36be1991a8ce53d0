"""Which special tokens stand around a text, where its tokenizer's class decides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.added_tokens import special_tokens

# Classes of transformers that make the frame anew from two settings, whatever tokenizer.json has;
# by class, whether the first token is added where the settings do not say it.
_ADDS_BOS: Mapping[str, bool] = {
    "CodeLlamaTokenizer": True,
    "CohereTokenizer": True,
    "GPTNeoXTokenizer": False,
    "GemmaTokenizer": True,
    "LlamaTokenizer": True,
}
# Classes whose frame has a language, which the runtime puts there: the file has the end alone.
_ENDS_ONLY = frozenset({"MBart50Tokenizer", "MBartTokenizer", "NllbTokenizer"})
_BY_ARCHITECTURE: Mapping[str, str] = {
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "llama": "LlamaTokenizer",
    "mbart": "MBartTokenizer",
    "mistral": "LlamaTokenizer",
    "phi3": "LlamaTokenizer",
}
_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "GPTNeoXTokenizer": {"bos": "<|endoftext|>", "eos": "<|endoftext|>"},
    "GemmaTokenizer": {"bos": "<bos>", "eos": "<eos>"},
    "CohereTokenizer": {"bos": "<BOS_TOKEN>", "eos": "<|END_OF_TURN_TOKEN|>"},
}
_LLAMA = {"bos": "<s>", "eos": "</s>"}


@dataclass(frozen=True, slots=True)
class Frame:
    """The tokens before and after each text; "" is none."""

    before: str
    after: str

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return the tokens that there are, each once."""
        return tuple(token for token in dict.fromkeys((self.before, self.after)) if token)

    @property
    def single(self) -> str:
        """Return the template of one text, as tokenizers spells it."""
        return self._around("$A", 0)

    @property
    def pair(self) -> str:
        """Return the template of two texts."""
        return f"{self.single} {self._around('$B', 1)}"

    def _around(self, text: str, kind: int) -> str:
        return " ".join(f"{part}:{kind}" for part in (self.before, text, self.after) if part)


def read_frame(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Frame | None:
    """Return what add_bos_token and add_eos_token make of a text; None where they do not rule.

    Source:
        transformers 4, `LlamaTokenizerFast.update_post_processor`.
    """
    stated = settings.get("tokenizer_class") or checkpoint.config.get("tokenizer_class")
    name = str(stated or _BY_ARCHITECTURE.get(checkpoint.architecture, "")).removesuffix("Fast")
    if name in _ENDS_ONLY:
        end = special_tokens(checkpoint, settings, {"eos": "</s>"}, {})["eos"]
        return Frame(before="", after=end.content)
    if name not in _ADDS_BOS:
        return None
    tokens = special_tokens(checkpoint, settings, _DEFAULTS.get(name, _LLAMA), {})
    return Frame(
        before=tokens["bos"].content if settings.get("add_bos_token", _ADDS_BOS[name]) else "",
        after=tokens["eos"].content if settings.get("add_eos_token", False) else "",
    )
