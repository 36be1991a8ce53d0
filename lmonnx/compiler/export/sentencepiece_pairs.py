"""The tokenizers of encoder-decoders that transformers converts from a SentencePiece model.

Of the tokens around a text only the end is put there; `framing` and the runtime do the rest.

Source:
    transformers 4.57, `convert_slow_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmonnx.compiler.export import language_codes as codes
from lmonnx.compiler.export.sentencepiece_model import SentencePieceModel
from lmonnx.compiler.export.sentencepiece_tokenizer import (
    FAIRSEQ,
    FAIRSEQ_UNKNOWN,
    SentencePieceClass,
    Settings,
    Vocabulary,
    pieces,
    plain_text,
)

_END_SINGLE, _END_PAIR = "$A </s>", "$A $B </s>"
_T5_TOKENS = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_PEGASUS_TOKENS = {**_T5_TOKENS, "mask": "<mask_2>"}
_MBART_TOKENS = {
    "bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>",
    "mask": "<mask>",
}  # fmt: skip
_NORMALIZED_MASK = {"mask": {"lstrip": True, "normalized": True}}
_PEGASUS_OFFSET = 103


def is_rebuilt(settings: Settings) -> bool:
    """Say whether T5's class passes over tokenizer.json for spiece.model.

    Source:
        transformers, `T5TokenizerFast.__init__`.
    """
    return settings.get("add_prefix_space") is not None


# T5 ----------------------------------------------------------------------------------------------


def _t5(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    extra = [(token, 0.0) for token in reversed(_sentinels(settings))]
    return [*pieces(model, settings), *extra]


def _sentinels(settings: Settings) -> list[str]:
    return [f"<extra_id_{index}>" for index in range(_count(settings, "extra_ids", 100))]


def _prepends(settings: Settings) -> str:
    if not settings.get("add_prefix_space", True):  # null too, as its fast class writes it
        return "never"
    return "first" if settings.get("legacy") is False else "always"


# Pegasus -----------------------------------------------------------------------------------------


def _pegasus(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    offset = _offset(settings)
    first = [_named(settings, "pad_token", "<pad>"), _named(settings, "eos_token", "</s>")]
    sentence, mask = _mask_sent(settings), _named(settings, "mask_token", "<mask_2>")
    if sentence is not None:
        first += [sentence, *([mask] if offset > 0 else [])]
    unknown = [(token, -100.0) for token in _unknown_tokens(offset)]
    return [*((token, 0.0) for token in first), *unknown, *pieces(model, settings)[2:]]


def _pegasus_special(settings: Settings) -> Sequence[str]:
    sentence = _mask_sent(settings)
    return [*([sentence] if sentence else []), *_unknown_tokens(_offset(settings))]


def _unknown_tokens(offset: int) -> list[str]:
    return [f"<unk_{index}>" for index in range(2, offset)]


def _mask_sent(settings: Settings) -> str | None:
    named = settings.get("mask_token_sent", "<mask_1>")
    return None if named is None else str(named)


def _offset(settings: Settings) -> int:
    return _count(settings, "offset", _PEGASUS_OFFSET)


# mBART, NLLB -------------------------------------------------------------------------------------


def _mbart(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    return _fairseq(model, settings, codes.MBART)


def _mbart50(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    return _fairseq(model, settings, codes.MBART50)


def _fairseq(model: SentencePieceModel, settings: Settings, added: Sequence[str]) -> Vocabulary:
    last = [(token, 0.0) for token in (*added, "<mask>")]
    return [*FAIRSEQ, *pieces(model, settings)[3:], *last]


def _nllb(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    return [*FAIRSEQ, *pieces(model, settings)[3:]]


def _nllb_codes(settings: Settings) -> Sequence[str]:
    return () if settings.get("additional_special_tokens") else codes.NLLB


# -------------------------------------------------------------------------------------------------


def _count(settings: Settings, name: str, default: int) -> int:
    """Return a small number of the settings; one that is none is a damaged file."""
    value = settings.get(name, default)
    if type(value) is not int or not 0 <= value <= 10_000:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def _named(settings: Settings, name: str, default: str) -> str:
    value = settings.get(name) or default
    return str(value.get("content", default) if isinstance(value, dict) else value)


T5 = SentencePieceClass(
    file="spiece.model",
    special=_T5_TOKENS,
    single=_END_SINGLE,
    pair="$A </s> $B </s>",
    vocabulary=_t5,
    normalizer=plain_text,
    flags={},
    additional=_sentinels,
    prepends=_prepends,
)
PEGASUS = SentencePieceClass(
    file="spiece.model",
    special=_PEGASUS_TOKENS,
    single=_END_SINGLE,
    pair=_END_PAIR,
    vocabulary=_pegasus,
    normalizer=plain_text,
    unknown_id=lambda model, settings: model.unknown_id + _offset(settings),
    flags={},
    additional=_pegasus_special,
    by_whitespace=True,
)
MBART = SentencePieceClass(
    file="sentencepiece.bpe.model",
    special=_MBART_TOKENS,
    single=_END_SINGLE,
    pair=_END_PAIR,
    vocabulary=_mbart,
    normalizer=plain_text,
    unknown_id=lambda *_: FAIRSEQ_UNKNOWN,
    additional=lambda _: codes.MBART,
)
MBART50 = SentencePieceClass(
    file="sentencepiece.bpe.model",
    special=_MBART_TOKENS,
    single=_END_SINGLE,
    pair=_END_PAIR,
    vocabulary=_mbart50,
    normalizer=plain_text,
    unknown_id=lambda *_: FAIRSEQ_UNKNOWN,
    flags=_NORMALIZED_MASK,
    additional=lambda _: codes.MBART50,
)
NLLB = SentencePieceClass(
    file="sentencepiece.bpe.model",
    special=_MBART_TOKENS,
    single=_END_SINGLE,
    pair=_END_PAIR,
    vocabulary=_nllb,
    normalizer=plain_text,
    unknown_id=lambda *_: FAIRSEQ_UNKNOWN,
    flags=_NORMALIZED_MASK,
    additional=_nllb_codes,
)
