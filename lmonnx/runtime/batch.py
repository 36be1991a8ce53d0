"""Token ids → padded arrays of like length; every batch knows whose rows it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Side, TokenizerSpec
from lmonnx.runtime.tokenizer import Encoding

# Measured best on two cores for 384 to 768 wide encoders: larger ones leave the second-level cache.
MAX_TOKENS = 512

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded model inputs, name → (B, S), and the encodings' places in the list given."""

    places: tuple[int, ...]
    inputs: dict[str, Ints]


def batches(
    encodings: Sequence[Encoding],
    spec: TokenizerSpec,
    names: frozenset[str],
    *,
    max_tokens: int = MAX_TOKENS,
) -> Iterator[Batch]:
    """Yield batches of encodings sorted by length, so that little of them is padding.

    Args:
        encodings: What to batch; each is in exactly one batch.
        spec: How the model pads.
        names: The graph's inputs.
        max_tokens: B × S of a batch, padding included; a longer encoding is alone in its batch.
    """
    order = sorted(range(len(encodings)), key=lambda place: len(encodings[place].ids))
    start = 0
    for end in range(1, len(order) + 1):
        full = end == len(order)
        if not full:
            longest = len(encodings[order[end]].ids)
            full = (end + 1 - start) * longest > max_tokens
        if full:
            places = tuple(order[start:end])
            yield Batch(places, _pad([encodings[p] for p in places], spec, names))
            start = end


def _pad(
    encodings: Sequence[Encoding], spec: TokenizerSpec, names: frozenset[str]
) -> dict[str, Ints]:
    length = max(1, *(len(e.ids) for e in encodings)) if encodings else 1
    shape = (len(encodings), length)
    arrays = {
        "input_ids": np.full(shape, spec.pad_id, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
        "token_type_ids": np.full(shape, spec.pad_type_id, np.int64),
    }
    for row, encoding in enumerate(encodings):
        size = len(encoding.ids)
        at = slice(length - size, length) if spec.padding_side is Side.LEFT else slice(0, size)
        arrays["input_ids"][row, at] = encoding.ids
        arrays["attention_mask"][row, at] = 1
        arrays["token_type_ids"][row, at] = encoding.type_ids
    return {name: array for name, array in arrays.items() if name in names}
