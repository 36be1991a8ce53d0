"""Blocks of 4 bits → int8 by rows, at load: products of many rows are several times faster so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import RowWeights, Span
from lmonnx.errors import BundleError

_MIDDLE = 8  # of 4 bits: what stands for 0 where no zero points are stated
_BLOCK_SIZES = (32, 64, 128)
_LINE = 64  # bytes of the cache
_AT_ONCE = 1 << 18  # weights: what is computed of them stays in the cache

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def centred(packed: Bytes, packed_zeros: Bytes | None, room: Floats | None = None) -> Floats:
    """Return integers of 4 bits less their zero points, as floats.

    Args:
        packed: (N, blocks, block_size / 2), low nibble first.
        packed_zeros: (N, blocks / 2, rounded up), low nibble first; None is the middle for all.
        room: Where they go, (N or more, blocks, block_size); None is memory of their own.

    Returns:
        (N, blocks, block_size).
    """
    rows, blocks, half = packed.shape
    room = np.empty((rows, blocks, 2 * half), np.float32) if room is None else room[:rows]
    values = room.reshape(rows, blocks, half, 2)
    np.bitwise_and(packed, 15, out=values[..., 0], casting="unsafe")
    np.right_shift(packed, 4, out=values[..., 1], casting="unsafe")
    if packed_zeros is None:
        values -= np.float32(_MIDDLE)
    else:
        zeros = np.stack([packed_zeros & 15, packed_zeros >> 4], -1).reshape(rows, -1)
        values -= zeros[:, :blocks, None, None].astype(np.float32)
    return room


def all_by_rows(
    folder: Path, made: Sequence[RowWeights], threads: int
) -> dict[str, NDArray[np.int8]]:
    """Return every matrix (K, N) that a graph of a folder has made, by name.

    Raises:
        BundleError: A file is shorter than is said, a size makes no sense, or a number is none.
    """
    if len({each.name for each in made}) < len(made):
        raise BundleError(f"{folder} has two weights of one name; make the bundle again")
    names = {name for each in made for name in each.files}
    files = {name: _mapped(folder / name) for name in names}
    parts = [_parts(folder, files, each) for each in made]
    sizes = [-(-prod(each.shape) // _LINE) * _LINE for each in made]
    # In one piece, of which the system makes large pages.
    whole = np.empty(sum(sizes), np.int8)
    found = {
        each.name: whole[stop - size :][: prod(each.shape)].reshape(each.shape)
        for each, size, stop in zip(made, sizes, accumulate(sizes), strict=True)
    }
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_fill, found.values(), parts))
    return found


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a matrix is made of, as it lies in the files; see `RowWeights`."""

    packed: Bytes  # (N, blocks, block_size / 2)
    scales: Floats  # (N, blocks), over the steps
    zeros: Bytes | None  # (N, blocks / 2, rounded up)
    factors: Floats | None  # (K,)


def _parts(folder: Path, files: Mapping[str, Bytes], made: RowWeights) -> _Parts:
    if len(made.shape) != 2 or min(made.shape) < 1 or made.block_size not in _BLOCK_SIZES:
        raise BundleError(
            f"{folder}: {made.name:.60} is no matrix of blocks; make the bundle again"
        )
    inputs, outputs = made.shape
    blocks = -(-inputs // made.block_size)

    def read(span: Span, kind: Any, *shape: int) -> NDArray[Any]:
        stored, size = files[span.file], prod(shape) * np.dtype(kind).itemsize
        if not 0 <= span.offset <= len(stored) - size:
            raise BundleError(f"{folder / span.file} ends before the weights of {made.name:.60}")
        found: NDArray[Any] = stored[span.offset : span.offset + size].view(kind).reshape(shape)
        return found

    with np.errstate(all="ignore"):
        scales = read(made.scales, np.float32, outputs, blocks) / read(
            made.steps, np.float32, outputs, 1
        )
    if not np.isfinite(scales).all():
        raise BundleError(f"{folder}: {made.name:.60} has scales that are no numbers")
    return _Parts(
        read(made.blocks, np.uint8, outputs, blocks, made.block_size // 2),
        scales,
        read(made.zeros, np.uint8, outputs, -(-blocks // 2)) if made.zeros else None,
        read(made.factors, np.float32, inputs) if made.factors else None,
    )


def _fill(found: NDArray[np.int8], parts: _Parts) -> None:
    """Fill in a matrix (K, N), some of its columns at a time."""
    inputs, outputs = found.shape
    _, blocks, half = parts.packed.shape
    count = min(outputs, max(1, _AT_ONCE // (blocks * half * 2)))
    # Memory is taken once: new pages would cost more than what is computed in them.
    room = np.empty((count, blocks, 2 * half), np.float32)
    integers = np.empty((count, inputs), np.int8)
    with np.errstate(all="ignore"):  # of a damaged file
        for start in range(0, outputs, count):
            here = slice(start, start + count)
            zeros = None if parts.zeros is None else parts.zeros[here]
            values = centred(parts.packed[here], zeros, room)
            values *= parts.scales[here][..., None]
            flat = values.reshape(len(values), -1)[:, :inputs]
            if parts.factors is not None:
                flat *= parts.factors
            found[:, here] = np.rint(flat, out=integers[: len(flat)], casting="unsafe").T


def _mapped(path: Path) -> Bytes:
    """Return a file's bytes, mapped once: each mapping keeps a file open."""
    try:
        return np.asarray(np.memmap(path, np.uint8, "r"))
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise BundleError(f"{path} cannot be read ({error}); make the bundle again") from error
