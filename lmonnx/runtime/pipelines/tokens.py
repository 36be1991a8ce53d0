"""A row a token: outputs without padding, and a long text's windows made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Side
from lmonnx.errors import BundleError
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.numerics import Floats
from lmonnx.runtime.pipelines.base import Window
from lmonnx.runtime.tokenizer import Encoding, Spans


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens, special ones left out, an entry each; `index` counts special ones too."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    index: list[int]
    rows: Floats  # (tokens, C)


def unpadded(
    output: NDArray[Any], batch: Batch, side: Side, shape: tuple[int, ...]
) -> list[NDArray[np.float32]]:
    """Return one output's rows, each as long as its window.

    Args:
        output: (B, S, …), where … is `shape`.
        batch: What it is of.
        side: Where the batch is padded.
        shape: What the output must have beside B and S.

    Raises:
        BundleError: The output is of another shape or type.
    """
    ids = batch.inputs["input_ids"]
    if output.shape != ids.shape + shape or output.dtype.kind != "f":
        raise BundleError(
            f"the graph gives {output.dtype} of the shape {output.shape}, not floats of "
            f"{ids.shape + shape}; export the bundle again"
        )
    width = output.shape[1]
    sizes = [len(encoding.ids) for encoding in batch.encodings]
    starts = [width - size if side is Side.LEFT else 0 for size in sizes]
    return [
        row[start : start + size].astype(np.float32)  # a copy, so that the batch is let go
        for row, start, size in zip(output, starts, sizes, strict=True)
    ]


def spans_of(encoding: Encoding) -> Spans:
    """Return where a window's tokens come from; a pipeline with SPANS has them."""
    return cast(Spans, encoding.spans)


def merge(windows: Sequence[Window[NDArray[np.float32]]]) -> Tokens:
    """Return every token of a text once, with its row of the window that shows most around it.

    Most around it is the higher of min(tokens before it, tokens after it) in the window; of two
    windows that show as much it is the first.
    """
    pairs = [(window, text_tokens(spans_of(window.encoding))) for window in windows]
    rows = np.concatenate([window.row[at] for window, at in pairs])
    index = np.concatenate([at for _, at in pairs])
    every = [(window.encoding, i) for window, at in pairs for i in at.tolist()]
    if len(windows) > 1:  # else the text may have been cut short, and is then the whole text
        places = [np.array(spans_of(window.encoding).places)[at] for window, at in pairs]
        chosen = _most_shown(places)
        rows, index = rows[chosen], np.concatenate(places)[chosen]
        every = [every[i] for i in chosen.tolist()]
    return Tokens(
        [encoding.ids[i] for encoding, i in every],
        [spans_of(encoding).offsets[i] for encoding, i in every],
        index.tolist(),
        rows,
    )


def _most_shown(places: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return one of each place, in order: where the joined windows show most around it."""
    joined = np.concatenate(places)
    around = np.concatenate([_around(len(window)) for window in places])
    order = np.lexsort((-around, joined))  # stable: of two windows the first
    _, firsts = np.unique(joined[order], return_index=True)
    return order[firsts]


def text_tokens(spans: Spans) -> NDArray[np.int64]:
    """Return where a window's tokens are that are no special ones."""
    kept = [i for i, part in enumerate(spans.parts) if part is not None]
    return np.array(kept, np.int64)


def _around(size: int) -> NDArray[np.int64]:
    """Return the lower of how many come before and after, for each of `size` tokens."""
    before = np.arange(size)
    return np.minimum(before, size - 1 - before)
