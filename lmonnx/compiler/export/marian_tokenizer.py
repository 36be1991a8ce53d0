"""Marian's and M2M100's tokenizers: SentencePiece cuts the text, vocab.json numbers the pieces.

Their truth is SentencePiece itself: docs/decisions/0014-pair-tokenizers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.checkpoint.merges import scored_merges
from lmonnx.compiler.export.added_tokens import (
    add_missing,
    add_tokens,
    listed_tokens,
    special_tokens,
)
from lmonnx.compiler.export.languages import encoder_of, m2m100_codes
from lmonnx.compiler.export.ruled_tokenizer import Pair, Ruled, end_after, found_tokens
from lmonnx.compiler.export.sentencepiece_model import (
    Algorithm,
    PieceType,
    SentencePieceModel,
    read_model,
)
from lmonnx.compiler.export.sentencepiece_tokenizer import plain_text
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.runtime.generate.piece_rules import HIDDEN, PieceRules

Settings = Mapping[str, Any]
_SPACE = "▁"
_TOKENS = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_M2M100_TOKENS = {**_TOKENS, "bos": "<s>", "sep": "</s>"}
_MOST_IDS = 2**22


def build_marian(checkpoint: Checkpoint, settings: Settings) -> Pair:
    """Build MarianTokenizer: two models, one vocabulary or two."""
    separate = settings.get("separate_vocabs") is True
    encoder = encoder_of(checkpoint)
    target_encoder = encoder_of(checkpoint, "target_vocab.json") if separate else encoder
    _check_width(checkpoint, encoder, "vocab_size")
    _check_width(checkpoint, target_encoder, "decoder_vocab_size" if separate else "vocab_size")
    source_model, target_model = (_model(checkpoint, name) for name in ("source.spm", "target.spm"))

    def build(model: SentencePieceModel, ids: Mapping[str, int]) -> Ruled:
        made = _ruled(checkpoint, settings, model, _Vocabulary(ids, _TOKENS))
        return replace(made, rules=replace(made.rules, codes=True))

    source = build(source_model, encoder)
    same = source_model == target_model and not separate
    return Pair(source, None if same else build(target_model, target_encoder))


def build_m2m100(checkpoint: Checkpoint, settings: Settings) -> Pair:
    """Build M2M100Tokenizer: the languages' tokens come after the vocabulary's."""
    encoder = encoder_of(checkpoint)
    _check_width(checkpoint, encoder, "vocab_size")
    first = len(encoder)
    languages = {f"__{code}__": first + i for i, code in enumerate(m2m100_codes(settings))}
    model = _model(checkpoint, "sentencepiece.bpe.model")
    return Pair(
        _ruled(checkpoint, settings, model, _Vocabulary(encoder, _M2M100_TOKENS, languages))
    )


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The model's ids: of pieces, of special tokens by role, and of others that no text gives."""

    encoder: Mapping[str, int]
    roles: Mapping[str, str]
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def ids(self) -> dict[str, int]:
        """The ids of all of them."""
        return {**self.encoder, **self.others}


def _ruled(
    checkpoint: Checkpoint, settings: Settings, model: SentencePieceModel, vocabulary: _Vocabulary
) -> Ruled:
    """Arrange a SentencePiece model's pieces by the ids of the checkpoint's vocabulary."""
    special = special_tokens(checkpoint, settings, vocabulary.roles, {})
    unknown = vocabulary.encoder.get(special["unk"].content)
    if unknown is None:
        raise StageError(
            f"vocab.json lacks the token for unknown pieces, {special['unk'].content!r}"
        )
    named = {token.content for token in listed_tokens(checkpoint, settings)}
    named |= {token.content for token in special.values()}
    entries, skipped = _arranged(model, vocabulary, named)
    size = len(entries) - _beyond(model, vocabulary)
    try:
        tokenizer = Tokenizer(_model_of(model, entries, unknown))
    except Exception as error:  # the package raises plain Exception
        said = " ".join(str(error).split())
        raise StageError(f"the SentencePiece model is not usable ({said})") from error
    tokenizer.normalizer = normalizers.Sequence(plain_text(model.charsmap, {}))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        _SPACE, prepend_scheme="always" if model.dummy_prefix else "never", split=_splits(model)
    )
    tokenizer.decoder = decoders.Sequence(_back(model))
    add_tokens(tokenizer, checkpoint, settings, special)
    add_missing(tokenizer, checkpoint, settings)
    tokens, strips = found_tokens(tokenizer)
    tokenizer.add_special_tokens(skipped)
    if (late := [token for token, index in tokens.items() if index >= size]) != []:
        raise StageError(f"the model has no id for the added token {late[0]!r:.40}")
    end_after(tokenizer, special["eos"].content)
    rules = PieceRules(
        unknown_id=unknown,
        size=size,
        tokens=tokens,
        strips=strips,
        charsmap=model.charsmap,
        dummy_prefix=model.dummy_prefix,
        squeeze=model.squeeze,
        byte_fallback=model.byte_fallback,
    )
    return Ruled(tokenizer, rules)


def _model(checkpoint: Checkpoint, name: str) -> SentencePieceModel:
    """Read a model that SentencePiece's rules here are all of."""
    path = checkpoint.path / name
    if not path.is_file():
        raise StageError(f"{path} is missing; fetch the checkpoint again")
    model = read_model(path)
    if any(piece.type is PieceType.USER_DEFINED for piece in model.pieces):
        raise UnsupportedError(f"{name} has user-defined pieces, which are not built here")
    if not model.escape:
        raise UnsupportedError(f"{name} leaves spaces as they are, which is not built here")
    return model


def _arranged(
    model: SentencePieceModel, vocabulary: _Vocabulary, named: set[str]
) -> tuple[list[tuple[str, float]], list[str]]:
    """Return the pieces and scores by id, and those that decoding skips.

    What SentencePiece does not give is hidden; its pieces that have no id come last.
    """
    ids = vocabulary.ids
    scores = {p.text: p.score for p in model.pieces if p.type is PieceType.NORMAL}
    control = {p.text for p in model.pieces if p.type is PieceType.CONTROL}
    by_id = {index: piece for piece, index in ids.items()}
    entries: list[tuple[str, float]] = []
    skipped: list[str] = []
    for index in range(max(by_id) + 1):
        piece = by_id.get(index)
        if piece in named:
            entries.append((piece, 0.0))
        elif piece in scores:
            entries.append((piece, scores[piece]))
        else:
            entries.append((HIDDEN + (f"no piece {index}" if piece is None else piece), 0.0))
            if piece is None or piece in control:
                skipped.append(entries[-1][0])
    entries += [(text, score) for text, score in scores.items() if text not in ids]
    return entries, skipped


def _beyond(model: SentencePieceModel, vocabulary: _Vocabulary) -> int:
    """Return how many pieces of a model have no id."""
    ids = vocabulary.ids
    return len({p.text for p in model.pieces if p.type is PieceType.NORMAL} - ids.keys())


def _model_of(model: SentencePieceModel, entries: list[tuple[str, float]], unknown: int) -> Any:
    if model.algorithm is Algorithm.UNIGRAM:
        return models.Unigram(entries, unknown, byte_fallback=False)
    normal = [(i, p) for i, p in enumerate(model.pieces) if p.type is PieceType.NORMAL]
    merges = scored_merges({p.text: p.score for _, p in normal}, {p.text: i for i, p in normal})
    by_text = {text: index for index, (text, _) in enumerate(entries)}
    return models.BPE(by_text, merges, unk_token=entries[unknown][0], fuse_unk=True)


def _splits(model: SentencePieceModel) -> bool:
    """Say whether words may be cut alone: no piece spans two, and a space is never unknown."""
    texts = [p.text for p in model.pieces if p.type is PieceType.NORMAL]
    return _SPACE in texts and not any(_SPACE in text[1:] for text in texts)


def _back(model: SentencePieceModel) -> list[Any]:
    """Return the steps from pieces to text; what is hidden is shown again."""
    shown = [decoders.Replace(HIDDEN, "")]
    spelled = [decoders.ByteFallback()] if model.byte_fallback else []
    return [*shown, *spelled, decoders.Replace(_SPACE, " "), decoders.Fuse()]


def _check_width(checkpoint: Checkpoint, encoder: Mapping[str, int], name: str) -> None:
    """Refuse ids that the model has no embedding of."""
    stated = checkpoint.config.get(name)
    rows = stated if type(stated) is int else checkpoint.config.get("vocab_size")
    rows = min(rows, _MOST_IDS) if type(rows) is int else _MOST_IDS
    highest = max(encoder.values())
    if highest >= rows:
        raise StageError(
            f"the tokenizer gives ids up to {highest}, the model has {rows} embeddings; "
            "tokenizer and weights are not of one model"
        )
