"""Vectors of tokens → one vector a text, its packing into fewer bits, and what compares two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Pooling, Similarity
from lmonnx.errors import InputError

Vectors = NDArray[np.float32]
Ints = NDArray[np.integer[Any]]

_LEAST_COUNT = 1e-9  # of tokens: what torch.clamp keeps a division from zero by
_LEAST_NORM = 1e-12  # torch.nn.functional.normalize's eps


class Packing(StrEnum):
    """What the numbers of a vector are stored as."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"  # a bit a dimension, eight to an int8
    UBINARY = "ubinary"  # eight to a uint8


def pool(hidden: NDArray[Any], mask: Ints, mode: Pooling, *, skipped: Ints | int = 0) -> Vectors:
    """Return one vector a row: (B, S, E) → (B, E), a copy that keeps nothing of `hidden` alive.

    Args:
        hidden: The vectors of the tokens.
        mask: 1 where there is a token; padding may be on either side.
        mode: How they become one.
        skipped: How many first tokens of a row do not count, such as a prompt's; (B, 1) or one
            number. They still have their place where a token's place is its weight.

    Source:
        sentence_transformers 6.2, `Pooling._forward_padded`.
    """
    vectors = np.asarray(hidden, np.float32)
    place = mask.cumsum(axis=1)  # 1, 2, … from a row's first token on
    kept = mask * (place > skipped)  # (B, S)
    return _MODES[mode](vectors, kept, place)


def _first(hidden: Vectors, kept: Ints, _: Ints) -> Vectors:
    result: Vectors = hidden[np.arange(len(hidden)), kept.argmax(axis=1)]
    return result


def _last(hidden: Vectors, kept: Ints, _: Ints) -> Vectors:
    rows = np.arange(len(hidden))
    last = kept.shape[1] - 1 - kept[:, ::-1].argmax(axis=1)
    # A row without any token is zero.
    result: Vectors = hidden[rows, last] * kept[rows, last, None].astype(np.float32)
    return result


def _mean(hidden: Vectors, kept: Ints, _: Ints) -> Vectors:
    return _weighted(hidden, kept) / _count(kept)


def _mean_sqrt(hidden: Vectors, kept: Ints, _: Ints) -> Vectors:
    return np.asarray(_weighted(hidden, kept) / np.sqrt(_count(kept)), np.float32)


def _weighted_mean(hidden: Vectors, kept: Ints, place: Ints) -> Vectors:
    weights = kept * place
    return _weighted(hidden, weights) / _count(weights)


def _max(hidden: Vectors, kept: Ints, _: Ints) -> Vectors:
    shown = hidden if kept.all() else np.where(kept[..., None], hidden, np.float32(-np.inf))
    result: Vectors = shown.max(axis=1)
    return result


def _weighted(hidden: Vectors, weights: Ints) -> Vectors:
    """Return each row's weighted sum: (B, 1, S) @ (B, S, E) → (B, E)."""
    result: Vectors = (weights[:, None, :].astype(np.float32) @ hidden)[:, 0]
    return result


def _count(weights: Ints) -> Vectors:
    total = weights.sum(axis=1, keepdims=True).astype(np.float32)
    return np.asarray(np.maximum(total, _LEAST_COUNT), np.float32)


_MODES: Mapping[Pooling, Callable[[Vectors, Ints, Ints], Vectors]] = {
    Pooling.CLS: _first,
    Pooling.LAST: _last,
    Pooling.MEAN: _mean,
    Pooling.MEAN_SQRT: _mean_sqrt,
    Pooling.WEIGHTED_MEAN: _weighted_mean,
    Pooling.MAX: _max,
}


def normalize(vectors: Vectors) -> Vectors:
    """Return vectors of length 1; one of zeros stays."""
    norms = np.sqrt(np.einsum("...e,...e->...", vectors, vectors))[..., None]
    result: Vectors = vectors / np.maximum(norms, np.float32(_LEAST_NORM))
    return result


def ranges_of(vectors: Vectors) -> Vectors:
    """Return each dimension's least and greatest value: (N, E) → (2, E)."""
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def pack(vectors: Vectors, packing: Packing, ranges: Vectors | None = None) -> NDArray[Any]:
    """Return vectors as `packing` stores them: (N, E) → (N, E), or (N, ⌈E / 8⌉) bits.

    Args:
        vectors: float32.
        packing: The type of the result.
        ranges: (2, E), what int8 and uint8 spread over 256 steps; None takes the vectors' own.

    Source:
        sentence_transformers 6.2, `util.quantization.quantize_embeddings`.
    """
    if packing is Packing.FLOAT32:
        return vectors
    if packing in (Packing.BINARY, Packing.UBINARY):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if packing is Packing.UBINARY else _signed(bits)
    if not len(vectors):
        return vectors.astype(packing.value)
    least, greatest = ranges_of(vectors) if ranges is None else ranges
    if not np.all(least <= greatest):  # NaN is neither
        raise InputError("ranges must be numbers, the least of each dimension before the greatest")
    steps = (greatest - least) / 255
    steps = np.where(steps == 0, 1, steps)
    levels = np.clip(np.floor((vectors - least) / steps), 0, 255).astype(np.uint8)
    return levels if packing is Packing.UINT8 else _signed(levels)


def _signed(values: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Return values less 128."""
    return (values.astype(np.int16) - 128).astype(np.int8)


def _dot(a: Vectors, b: Vectors) -> Vectors:
    return a @ b.T


def _cosine(a: Vectors, b: Vectors) -> Vectors:
    return normalize(a) @ normalize(b).T


def _euclidean(a: Vectors, b: Vectors) -> Vectors:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    squares = (wide_a**2).sum(axis=1)[:, None] + (wide_b**2).sum(axis=1)  # (N, M)
    distances = np.sqrt(np.maximum(squares - 2 * wide_a @ wide_b.T, 0))
    return np.asarray(-distances, np.float32)


def _manhattan(a: Vectors, b: Vectors) -> Vectors:
    result = np.empty((len(a), len(b)), np.float32)
    for place, vector in enumerate(a):
        result[place] = -np.abs(b - vector).sum(axis=1)
    return result


SIMILARITIES: Mapping[Similarity, Callable[[Vectors, Vectors], Vectors]] = {
    Similarity.COSINE: _cosine,
    Similarity.DOT: _dot,
    Similarity.EUCLIDEAN: _euclidean,
    Similarity.MANHATTAN: _manhattan,
}
