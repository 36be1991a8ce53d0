"""The keys `tokenizer.*` of a GGUF file → tokenizer.json and its companions, as JSON.

Nothing here needs the tokenizers package: the export reads what is written like any other folder's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lmonnx.compiler.checkpoint.gguf_fields import Fields
from lmonnx.compiler.checkpoint.gguf_pretokenizers import (
    BY_ARCHITECTURE,
    PRE_TOKENIZERS,
    PreTokenizer,
    byte_level,
)
from lmonnx.compiler.checkpoint.gguf_vocabulary import (
    TokenType,
    Vocabulary,
    finish,
    read_vocabulary,
)
from lmonnx.compiler.checkpoint.merges import scored_merges
from lmonnx.errors import StageError, UnsupportedError

Json = dict[str, Any]
_SPACE = "▁"
# Tokens of Phi-3 that do not swallow the spaces after them, as all its other added tokens do.
_PHI3_PLAIN = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@dataclass(frozen=True, slots=True)
class Text:
    """What a file says of text.

    Attributes:
        files: JSON by file name.
        ids: `bos_token_id` and its kin, as config.json has them.
        tokens: How many there are.
    """

    files: Mapping[str, Json]
    ids: Mapping[str, int]
    tokens: int


def read_text(fields: Fields, architecture: str, *, context: int) -> Text:
    """Return the tokenizer's files.

    Args:
        fields: The keys below "tokenizer".
        architecture: As llama.cpp spells it.
        context: How many tokens the model takes.

    Raises:
        UnsupportedError: The tokenizer is of a kind that is not built here.
        StageError: Its parts do not fit together.
    """
    vocabulary = read_vocabulary(fields)
    tokenizer = _BUILDERS[vocabulary.model](vocabulary, architecture)
    roles = {role: vocabulary.tokens[index] for role, index in vocabulary.roles.items()}
    special: Json = {f"{role}_token": token for role, token in roles.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **special,
    }
    if template := _chat_template(fields):
        settings["chat_template"] = template
    finish(fields)
    ids = {f"{role}_token_id": i for role, i in vocabulary.roles.items() if role != "unk"}
    ends = list(vocabulary.ends)
    generation = {**ids, "eos_token_id": ends if len(ends) > 1 else ends[0]}
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
        "special_tokens_map.json": special,
        "generation_config.json": generation,
    }
    return Text(files, ids, len(vocabulary.tokens))


def _chat_template(fields: Fields) -> str | list[Json] | None:
    """Return the template, or with the named ones a list as transformers has it."""
    names = fields.strings("chat_templates") if fields.has("chat_templates") else []
    named = [(name, fields.text(f"chat_template.{name}")) for name in names]
    if fields.has("chat_template"):
        default = fields.text("chat_template")
        if not named:
            return default
        named.insert(0, ("default", default))
    return [{"name": name, "template": template} for name, template in named] or None


def _byte_level(vocabulary: Vocabulary, architecture: str) -> Json:
    """Return GPT-2's kind: bytes as letters, merges by rank."""
    fields = vocabulary.fields
    rule = _pre_tokenizer(fields, architecture)
    ids = vocabulary.used()
    return {
        **_frame(vocabulary, ids, rstrip=frozenset()),
        "normalizer": {"type": "NFC"} if rule.composes else None,
        "pre_tokenizer": rule.steps(),
        "post_processor": _ends(vocabulary, add_bos=rule.add_bos) or byte_level(),
        "decoder": byte_level(),
        "model": _bpe(ids, _stated_merges(fields, ids), ignore_merges=rule.ignore_merges),
    }


def _pre_tokenizer(fields: Fields, architecture: str) -> PreTokenizer:
    name = fields.text("ggml.pre", BY_ARCHITECTURE.get(architecture, ""))
    if name not in PRE_TOKENIZERS:
        said = f"the pre-tokenizer {name!r:.40} is not known here" if name else "it names none"
        raise UnsupportedError(
            f"{fields.path}: {said}, so text would be cut otherwise than in training; known are"
            f" {', '.join(PRE_TOKENIZERS)}; export the original checkpoint instead"
        )
    return PRE_TOKENIZERS[name]


def _stated_merges(fields: Fields, ids: Mapping[str, int]) -> list[list[str]]:
    merges = []
    for number, merge in enumerate(fields.strings("ggml.merges")):
        # A token may begin with a space: the one that parts the two is not the first letter.
        cut = merge.find(" ", 1)
        first, second = merge[:cut], merge[cut + 1 :]
        if cut < 0 or not {first, second, first + second} <= ids.keys():
            raise StageError(
                f"{fields.path}: merge {number} of tokenizer.ggml.merges, {merge!r:.60}, is not of"
                " two tokens to a third; the file is damaged"
            )
        merges.append([first, second])
    return merges


def _sentencepiece(vocabulary: Vocabulary, architecture: str) -> Json:
    """Return SentencePiece's BPE as LlamaTokenizerFast has it (transformers, `LlamaConverter`)."""
    fields = vocabulary.fields
    scores = fields.numbers("ggml.scores")
    if len(scores) != len(vocabulary.tokens):
        raise StageError(
            f"{fields.path}: there are {len(scores)} scores for {len(vocabulary.tokens)} tokens;"
            " the file is damaged"
        )
    # The converter writes a user's "▁▁" with plain spaces, and below every score.
    for index, kind in enumerate(vocabulary.types):
        if kind is TokenType.USER_DEFINED:
            vocabulary.tokens[index] = vocabulary.tokens[index].replace(" ", _SPACE)
            scores[index] = 0.0
    ids = vocabulary.used()
    prefix = fields.flag("ggml.add_space_prefix", default=True)
    steps: list[Json] = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    back: list[Json] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    rstrip = ids.keys() - _PHI3_PLAIN if architecture == "phi3" else frozenset[str]()
    unknown = vocabulary.tokens[vocabulary.roles["unk"]]
    return {
        **_frame(vocabulary, ids, rstrip=frozenset(rstrip)),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": _ends(vocabulary, add_bos=True),
        "decoder": {"type": "Sequence", "decoders": back},
        "model": {
            **_bpe(ids, _scored_merges(vocabulary, ids, scores)),
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def _scored_merges(
    vocabulary: Vocabulary, ids: Mapping[str, int], scores: list[float]
) -> list[list[str]]:
    """Return every split of a piece into two others, the best score first.

    A control token is nobody's product, so that text can never spell one.
    """
    made = (TokenType.NORMAL, TokenType.USER_DEFINED)
    kinds = vocabulary.types
    by_text = {text: scores[index] for text, index in ids.items() if kinds[index] in made}
    return [[a, b] for a, b in scored_merges(by_text, ids)]


def _bpe(ids: Mapping[str, int], merges: list[list[str]], *, ignore_merges: bool = False) -> Json:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": dict(ids),
        "merges": merges,
    }


def _frame(vocabulary: Vocabulary, ids: Mapping[str, int], *, rstrip: frozenset[str]) -> Json:
    """Return what every tokenizer.json has, with the tokens that are matched before all else."""
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": token in rstrip,
            "normalized": False,
            "special": vocabulary.is_special(index),
        }
        for token, index in ids.items()
        if vocabulary.is_special(index) or vocabulary.types[index] is TokenType.USER_DEFINED
    ]
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added}


def _ends(vocabulary: Vocabulary, *, add_bos: bool) -> Json | None:
    """Return the post-processor that puts bos before and eos after, None where neither is put."""
    fields = vocabulary.fields
    before = ["bos"] if fields.flag("ggml.add_bos_token", default=add_bos) else []
    after = ["eos"] if fields.flag("ggml.add_eos_token", default=False) else []
    if not before + after:
        return None
    if before and "bos" not in vocabulary.roles:
        raise StageError(f"{fields.path} begins texts with a bos token and names none")
    tokens = {role: vocabulary.tokens[vocabulary.roles[role]] for role in before + after}

    def around(sequence: str, kind: int) -> list[Json]:
        marks = [{"SpecialToken": {"id": tokens[role], "type_id": kind}} for role in before + after]
        text: Json = {"Sequence": {"id": sequence, "type_id": kind}}
        return [*marks[: len(before)], text, *marks[len(before) :]]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary.roles[role]], "tokens": [token]}
            for role, token in tokens.items()
        },
    }


_BUILDERS: dict[str, Callable[[Vocabulary, str], Json]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
}
