"""Token ids → padded arrays of like length; every batch knows whose rows it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Side, TokenizerSpec
from lmonnx.runtime.session import MAX_TOKENS
from lmonnx.runtime.tokenizer import Encoding

# What one more run of a graph costs, in tokens: padding may cost as much before a batch is closed.
RUN_TOKENS = 32

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded model inputs, name → (B, S); `places` are of the encodings in the list given."""

    places: tuple[int, ...]
    encodings: tuple[Encoding, ...]
    inputs: dict[str, Ints]


def batches(
    encodings: Sequence[Encoding],
    spec: TokenizerSpec,
    names: frozenset[str],
    *,
    max_tokens: int = MAX_TOKENS,
) -> Iterator[Batch]:
    """Yield batches of encodings, longest first, with no more padding than it pays for.

    Args:
        encodings: What to batch; each is in exactly one batch.
        spec: How the model pads.
        names: The graph's inputs.
        max_tokens: B × S of a batch, padding included; a longer encoding is alone in its batch.
    """
    lengths = [len(encoding.ids) for encoding in encodings]
    order = sorted(range(len(encodings)), key=lengths.__getitem__)
    cuts = list(_cuts([lengths[place] for place in order], max_tokens))
    for start, end in reversed(cuts):
        places = tuple(order[start:end])
        chosen = tuple(encodings[place] for place in places)
        yield Batch(places, chosen, _pad(chosen, spec, names))


def _cuts(lengths: list[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield where batches of ascending lengths start and end.

    A longer encoding joins while the padding that it brings to the others costs less than a run.
    """
    start = padding = 0
    for end in range(1, len(lengths) + 1):
        if end < len(lengths):
            rows, longest = end - start, lengths[end]
            padding += rows * (longest - lengths[end - 1])
            if (rows + 1) * longest <= max_tokens and padding <= RUN_TOKENS:
                continue
        yield start, end
        start, padding = end, 0


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
        if not spec.one_type:
            arrays["token_type_ids"][row, at] = encoding.type_ids
    return {name: array for name, array in arrays.items() if name in names}
