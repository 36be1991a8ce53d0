"""Where tokens stand: vectors that are added to words, and T5's distances."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.export.native.decoders.blocks import path_of
from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.export.native.seq2seq.plan import Distances, Positions, PositionTable

Table = NDArray[np.float32]
_INT32, _INT64 = 6, 7  # onnx.TensorProto's


def add_source_places(g: Scope, x: str, spec: PositionTable, hidden: int) -> str:
    """Add to each token its place in a source that begins its row: (G, S, E) → the same."""
    table, name = _store(g, spec, hidden), path_of(spec.module)
    if spec.pad_id is None:
        length = g.op("Shape", "input_ids", name=f"{name}/Shape", start=1, end=2)
        rows = g.op("Slice", table, g.ints(0), length, g.ints(0), name=f"{name}/Slice")
    else:
        read = g.op("Cast", _is_read(g, spec, name), name=f"{name}/Cast", to=_INT64)
        count = g.op("CumSum", read, g.graph.const(1, np.int64), name=f"{name}/CumSum")
        rows = g.op("Mul", count, read, name=f"{name}/Places")
        rows = g.op("Gather", table, rows, name=f"{name}/Gather", axis=0)
    return g.op("Add", x, rows, name=f"{name}/Add")


def add_places(g: Scope, x: str, spec: PositionTable, hidden: int) -> str:
    """Add to each token its place after what is in the cache: (rows, Q, E) → the same."""
    table, name, where = _store(g, spec, hidden), path_of(spec.module), places(g)
    if spec.pad_id is not None:
        counted = g.op("Add", where, g.graph.const(1, np.int64), name=f"{name}/Counted")
        zero = g.graph.const(0, np.int64)
        where = g.op("Where", _is_read(g, spec, name), counted, zero, name=f"{name}/Where")
    rows = g.op("Gather", table, where, name=f"{name}/Gather", axis=0)
    return g.op("Add", x, rows, name=f"{name}/Add")


def places(g: Scope) -> str:
    """Return each token's place, the first's 0: (rows, Q) int64.

    Rows without a past may be shorter than Q, rows with one may not.
    """
    made = "/places/Places"
    if made in g.graph.names:
        return f"{made}_output"
    length = g.op("Shape", "input_ids", name="places/Shape", start=1, end=2)
    last = g.op("Cast", "seqlens_k", name="places/Cast", to=_INT64)
    last = g.op("Unsqueeze", last, g.ints(1), name="places/Unsqueeze")  # (rows, 1)
    one, zero = g.graph.const(1, np.int64), g.graph.const(0, np.int64)
    past = g.op("Sub", last, g.op("Sub", length, one, name="places/More"), name="places/Sub")
    past = g.op("Max", past, zero, name="places/Past")
    count = g.op("Squeeze", length, name="places/Squeeze")
    order = g.op("Range", zero, count, one, name="places/Range")
    return g.op("Add", past, order, name=made[1:])


def source_distances(g: Scope, spec: Distances, heads: int) -> str:
    """Return what is added to the encoder's scores: (1, H, S, S)."""
    far, name = spec.farthest, path_of(spec.module)
    table = _by_distance(g, spec, heads, np.arange(-far, far + 1))
    length = g.op("Shape", "input_ids", name=f"{name}/Shape", start=1, end=2)
    count = g.op("Squeeze", length, name=f"{name}/Squeeze")
    zero, one = g.graph.const(0, np.int64), g.graph.const(1, np.int64)
    keys = g.op("Range", zero, count, one, name=f"{name}/Range")
    queries = g.op("Unsqueeze", keys, g.ints(1), name=f"{name}/Unsqueeze")
    rows = g.op("Sub", keys, queries, name=f"{name}/Sub")
    least, most = g.graph.const(-far, np.int64), g.graph.const(far, np.int64)
    rows = g.op("Clip", rows, least, most, name=f"{name}/Clip")
    rows = g.op("Add", rows, most, name=f"{name}/Rows")
    added = g.op("Gather", table, rows, name=f"{name}/Gather", axis=0)  # (S, S, H)
    added = g.op("Transpose", added, name=f"{name}/Transpose", perm=[2, 0, 1])
    return g.op("Unsqueeze", added, g.ints(0), name=f"{name}/Batch")


def distances(g: Scope, spec: Distances, heads: int) -> str:
    """Return what is added to the decoder's scores: (rows, H, Q, T).

    A key after its query has the number of distance 0; the kernel masks it.
    """
    far, name = spec.farthest, path_of(spec.module)
    table = _by_distance(g, spec, heads, -np.arange(far + 1))
    zero, one = g.graph.const(0, np.int64), g.graph.const(1, np.int64)
    count = g.op("Cast", "total_sequence_length", name=f"{name}/Cast", to=_INT64)
    keys = g.op("Range", zero, count, one, name=f"{name}/Range")
    queries = g.op("Unsqueeze", places(g), g.ints(2), name=f"{name}/Unsqueeze")
    back = g.op("Sub", queries, keys, name=f"{name}/Sub")  # (rows, Q, T)
    rows = g.op("Clip", back, zero, g.graph.const(far, np.int64), name=f"{name}/Clip")
    added = g.op("Gather", table, rows, name=f"{name}/Gather", axis=0)  # (rows, Q, T, H)
    return g.op("Transpose", added, name=f"{name}/Transpose", perm=[0, 3, 1, 2])


def buckets(distance: NDArray[np.int64], spec: Distances) -> NDArray[np.int64]:
    """Return the bucket of each key-minus-query distance.

    Source:
        transformers, `T5Attention._relative_position_bucket`, float32 step by step.
    """
    count = spec.buckets
    offset: NDArray[np.int64] = np.zeros_like(distance)
    if spec.both_ways:
        count //= 2
        offset, distance = (distance > 0) * count, np.abs(distance)
    else:
        distance = -np.minimum(distance, 0)
    exact = count // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    whole = np.float32(math.log(spec.farthest / exact))
    far = exact + (ratio / whole * np.float32(count - exact)).astype(np.int64)
    found: NDArray[np.int64] = np.where(distance < exact, distance, np.minimum(far, count - 1))
    return offset + found


def split_sinusoids(rows: int, size: int) -> Table:
    """Return sines in the first half and cosines in the second: (rows, size).

    Source:
        transformers, `MarianSinusoidalPositionalEmbedding._init_weight`, in float64.
    """
    exponent = 2 * (np.arange(size) // 2) / size
    angles = np.arange(rows)[:, None] / np.power(10000, exponent)
    return np.concatenate([np.sin(angles[:, 0::2]), np.cos(angles[:, 1::2])], 1).astype(np.float32)


def counted_sinusoids(first: int, rows: int, size: int) -> Table:
    """Return zeros, then the places from `first` on: (1 + rows, size).

    Source:
        transformers, `M2M100SinusoidalPositionalEmbedding.get_embedding`, float32 step by step.
    """
    half = size // 2
    step = np.float32(-math.log(10000) / (half - 1))
    frequency = np.exp((np.arange(half, dtype=np.float32) * step).astype(np.float64))
    places_ = np.arange(first, first + rows, dtype=np.float32)[:, None]
    angles = (places_ * frequency.astype(np.float32)).astype(np.float64)
    table = np.zeros((1 + rows, size), np.float32)
    table[1:, : 2 * half] = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    return table


def _by_distance(g: Scope, spec: Distances, heads: int, of: NDArray[np.int64]) -> str:
    table = g.params.read(f"{spec.module}.weight", spec.buckets, heads)
    return g.graph.weight(f"{spec.module}.weight", table[buckets(of, spec)])


def _store(g: Scope, spec: PositionTable, hidden: int) -> str:
    return g.graph.weight(f"{spec.module}.weight", _TABLES[spec.kind](g.params, spec, hidden))


def _learned(params: Params, spec: PositionTable, hidden: int) -> Table:
    stored = params.read(f"{spec.module}.weight", spec.first + spec.rows, hidden)
    return stored[spec.first :]


def _sinusoidal(params: Params, spec: PositionTable, hidden: int) -> Table:
    if params.has(f"{spec.module}.weight"):
        return _learned(params, spec, hidden)
    return split_sinusoids(spec.rows, hidden)


def _counted(params: Params, spec: PositionTable, hidden: int) -> Table:
    del params
    return counted_sinusoids(spec.first, spec.rows, hidden)


_TABLES = {
    Positions.LEARNED: _learned,
    Positions.SINUSOIDAL: _sinusoidal,
    Positions.COUNTED: _counted,
}


def _is_read(g: Scope, spec: PositionTable, name: str) -> str:
    """Say which tokens are no padding: bool, of the shape of `input_ids`."""
    pad = g.graph.const(spec.pad_id, np.int64)
    return g.op("Not", g.op("Equal", "input_ids", pad, name=f"{name}/Equal"), name=f"{name}/Not")
