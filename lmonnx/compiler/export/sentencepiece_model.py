"""A SentencePiece .model file → its pieces and what the trainer said, off the wire.

Source:
    google/sentencepiece, `sentencepiece_model.proto`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from lmonnx.bundle.wire import BYTES, FIXED32, VARINT, read_fields
from lmonnx.errors import StageError, UnsupportedError

MAX_BYTES = 64 * 2**20
MAX_CHARACTERS = 1000  # of a piece; the trainer's own default is 16

_PIECES, _TRAINER, _NORMALIZER = (1, BYTES), (2, BYTES), (3, BYTES)
_PIECE, _SCORE, _TYPE = (1, BYTES), (2, FIXED32), (3, VARINT)
_ALGORITHM, _SUFFIX, _UNKNOWN_ID, _UNKNOWN = (3, VARINT), (24, VARINT), (40, VARINT), (45, BYTES)
_CHARSMAP, _DUMMY, _SQUEEZE, _ESCAPE = (2, BYTES), (3, VARINT), (4, VARINT), (5, VARINT)
_BYTE_FALLBACK = (35, VARINT)
_Fields = Mapping[tuple[int, int], int | memoryview]


class PieceType(IntEnum):
    """What a piece is for, as the file numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Algorithm(IntEnum):
    """How text is cut into pieces, as the file numbers it."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of the vocabulary; its id is its place."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """Hold what a fast tokenizer is made of.

    Attributes:
        pieces: By id.
        algorithm: UNIGRAM or BPE.
        unknown_id: The id of text that no piece covers.
        unknown: The piece of that id, as the trainer names it.
        charsmap: The compiled normalization, b"" for none.
        dummy_prefix: A space goes before a text.
        squeeze: Runs of spaces are one, and those at the ends go.
        escape: Spaces are ▁ in pieces.
        byte_fallback: What no piece covers is spelled in bytes.
    """

    pieces: tuple[Piece, ...]
    algorithm: Algorithm
    unknown_id: int
    unknown: str
    charsmap: bytes
    dummy_prefix: bool = True
    squeeze: bool = True
    escape: bool = True
    byte_fallback: bool = False


def read_model(path: Path) -> SentencePieceModel:
    """Return the model in a file; what differs from SentencePiece's own reader is refused.

    Raises:
        StageError: The file is damaged or too large.
        UnsupportedError: It is a model of words or characters, or puts spaces after words.
    """
    if path.stat().st_size > MAX_BYTES:
        raise StageError(f"{path} is over {MAX_BYTES // 2**20} MiB; it is no SentencePiece model")
    try:
        return _model(memoryview(path.read_bytes()))
    except ValueError as error:
        raise StageError(
            f"{path} is not a whole SentencePiece model ({error}); fetch it again"
        ) from error


def _model(data: memoryview) -> SentencePieceModel:
    pieces: list[Piece] = []
    parts: dict[tuple[int, int], dict[tuple[int, int], int | memoryview]] = {
        _TRAINER: {},
        _NORMALIZER: {},
    }
    for number, wire, value in read_fields(data):
        if isinstance(value, int):
            continue
        if (number, wire) == _PIECES:
            pieces.append(_piece(_last(value)))
        elif (number, wire) in parts:
            parts[number, wire].update(_last(value))  # a repeated message adds to the first
    if not pieces:
        raise ValueError("it has no pieces")
    trainer = parts[_TRAINER]
    unknown_id = _number(trainer, _UNKNOWN_ID, 0)
    if unknown_id >= len(pieces):
        raise ValueError(f"the unknown piece is {unknown_id} of {len(pieces)}")
    normalizer = parts[_NORMALIZER]
    charsmap = _bytes(normalizer, _CHARSMAP, b"")
    if charsmap:
        _check_charsmap(charsmap)
    return SentencePieceModel(
        pieces=tuple(pieces),
        algorithm=_algorithm(trainer),
        unknown_id=unknown_id,
        unknown=_bytes(trainer, _UNKNOWN, b"<unk>").decode(),
        charsmap=charsmap,
        dummy_prefix=bool(_number(normalizer, _DUMMY, 1)),
        squeeze=bool(_number(normalizer, _SQUEEZE, 1)),
        escape=bool(_number(normalizer, _ESCAPE, 1)),
        byte_fallback=bool(_number(trainer, _BYTE_FALLBACK, 0)),
    )


def _algorithm(trainer: _Fields) -> Algorithm:
    algorithm = Algorithm(_number(trainer, _ALGORITHM, Algorithm.UNIGRAM))
    if algorithm not in {Algorithm.UNIGRAM, Algorithm.BPE}:
        raise UnsupportedError(
            f"a SentencePiece model of {algorithm.name.lower()}s is not built here; "
            "add tokenizer.json"
        )
    if _number(trainer, _SUFFIX, 0):
        raise UnsupportedError(
            "a SentencePiece model that puts spaces after words (treat_whitespace_as_suffix) "
            "is not built here; add tokenizer.json"
        )
    return algorithm


def _piece(fields: _Fields) -> Piece:
    text = _bytes(fields, _PIECE, b"").decode()
    (score,) = struct.unpack("<f", _bytes(fields, _SCORE, bytes(4)))
    if not text or len(text) > MAX_CHARACTERS or not math.isfinite(score):
        raise ValueError(f"the piece {text!r:.40} with the score {score}")
    return Piece(text, score, PieceType(_number(fields, _TYPE, PieceType.NORMAL)))


def _last(data: memoryview) -> dict[tuple[int, int], int | memoryview]:
    """Return the last value of every field, which is the one that counts."""
    return {(number, wire): value for number, wire, value in read_fields(data)}


def _number(fields: _Fields, key: tuple[int, int], default: int) -> int:
    value = fields.get(key, default)
    return value if isinstance(value, int) else default


def _bytes(fields: _Fields, key: tuple[int, int], default: bytes) -> bytes:
    value = fields.get(key, default)
    return default if isinstance(value, int) else bytes(value)


def _check_charsmap(data: bytes) -> None:
    """Refuse a double array that leads outside itself: the reader of it would end the process.

    Source:
        spm_precompiled, `DoubleArray::common_prefix_search`; s-yata/darts-clone.
    """
    size = int.from_bytes(data[:4], "little")
    text = np.frombuffer(data[4 + size :], np.uint8)
    if size % 4 or not 0 < size <= len(data) - 4:
        raise ValueError("its normalization is cut short")
    bytes(text).decode()
    units = np.frombuffer(data[4 : 4 + size], "<u4").astype(np.int64)
    nodes = np.flatnonzero(units < 2**31)  # the others are values
    kept = units[nodes]
    children = nodes ^ ((kept >> 10) << ((kept & 2**9) >> 6))
    if units[0] >= 2**31 or np.any(children | 255 >= len(units)):
        raise ValueError("its normalization leads outside")
    values = units[children[(kept & 2**8) != 0]] & (2**31 - 1)
    # A value is where a replacement starts; in UTF-8 only the bytes 10xxxxxx start no character.
    if np.any(values >= len(text)) or np.any(text[values] & 0xC0 == 0x80):
        raise ValueError("its normalization leads outside")
