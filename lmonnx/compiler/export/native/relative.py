"""Disentangled attention's part that depends on distances: DeBERTa's c2p and p2c scores.

What transformers does a layer and a batch is done once, at export: the table of distances is
projected to keys and queries, (2·span, E), which are constants of the graph. The run gathers a row
for each distance that occurs, multiplies, and shifts row i by i places, so that the distance i - j
stands under key j. No index has the shape of the scores, and short texts meet few distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.export.native import blocks
from lmonnx.compiler.export.native.blocks import LayerSizes, Scope

Table = NDArray[np.float32]


def bucket_rows(positions: int, span: int, buckets: int, farthest: int) -> NDArray[np.int64]:
    """Return the row of the table for the distances -positions … positions, ascending.

    Args:
        positions: The largest distance.
        span: Half the table's rows.
        buckets: Distances over half of it share rows, more the farther; none do where it is 0.
        farthest: The distance that the last bucket ends with.

    Source:
        transformers, `make_log_bucket_position`, float32 step by step.
    """
    distances = np.arange(-positions, positions + 1)
    rows = distances
    middle = buckets // 2
    far = np.abs(distances) > middle
    if buckets and far.any():
        ratio = np.log(np.abs(distances[far]) / np.float64(middle)).astype(np.float32)
        whole = np.log(np.float32((farthest - 1) / middle).astype(np.float64)).astype(np.float32)
        steps = np.ceil(ratio / whole * np.float32(middle - 1)) + middle
        rows = distances.copy()
        rows[far] = steps.astype(np.int64) * np.sign(distances[far])
    clipped: NDArray[np.int64] = np.clip(rows + span, 0, 2 * span - 1).astype(np.int64)
    return clipped


@dataclass(frozen=True, slots=True)
class Distances:
    """The rows that a batch of S positions needs, and the shapes of the shift.

    `falling` is of the distances S-1 … -S, `rising` of 1-S … S, `from_first` of 0 … 1-S.
    """

    falling: str
    rising: str
    from_first: str
    length: str
    last: str
    shape: str


def read_distances(g: Scope, rows: NDArray[np.int64]) -> Distances:
    """Cut the rows of a batch's distances out of all: (2P + 1,) → (2S,) or (S,)."""
    scope, positions = "distances", len(rows) // 2
    size = blocks.length(g, "input_ids", scope)
    half = g.ints(positions)
    before = g.op("Sub", half, size, name=f"{scope}/Before")
    after = g.op("Add", half, size, name=f"{scope}/After")

    def cut(name: str, values: NDArray[np.int64], start: str, end: str) -> str:
        stored = g.graph.weight(f"{scope}.{name}", values)
        return g.op("Slice", stored, start, end, g.ints(0), name=f"{scope}.{name}/Slice")

    # Position n of `falling` is the distance P-1-n, of `rising` 1-P+n, of `from_first` -n.
    falling = rows[::-1][1:]
    return Distances(
        falling=cut("falling", falling, before, after),
        rising=cut("rising", rows[1:], before, after),
        from_first=cut("from_first", falling[positions - 1 :], g.ints(0), size),
        length=size,
        last=g.op("Sub", size, g.ints(1), name=f"{scope}/Last"),
        shape=g.op("Concat", g.ints(0, 0), size, g.ints(-1), name=f"{scope}/Shape4", axis=0),
    )


def project_table(g: Scope, table: Table, name: str, sizes: LayerSizes, scale: float) -> str:
    """Store (table·Wᵀ + b)·scale cut into heads, computed now: (H, 2·span, D)."""
    weight = g.params.read(f"{name}.weight", sizes.hidden, sizes.hidden)
    bias = g.params.read(f"{name}.bias", sizes.hidden)
    rows = (table @ weight.T + bias) * np.float32(scale)
    heads = rows.reshape(len(table), sizes.heads, sizes.head).transpose(1, 0, 2)
    return g.graph.weight(f"{name}.distances", heads)


def position_scores(
    g: Scope, q: str, k: str, tables: Mapping[str, str], at: Distances, scope: str
) -> list[str]:
    """Return the scores between content and distance, (B, H, S, S) each.

    c2p = q_i · key(i-j) and p2c = k_j · query(i-j).

    Args:
        g: Where to write.
        q: (B, H, S, D).
        k: (B, H, S, D).
        tables: The projected tables of "c2p" and "p2c", or of one of them, scaled.
        at: The batch's distances.
        scope: What the nodes' names start with.

    Source:
        He et al., "DeBERTa" (arXiv:2006.03654), section 3.1.
    """
    found = []
    if "c2p" in tables:
        keys = _columns(g, tables["c2p"], at.falling, f"{scope}/C2P")
        scores = g.op("MatMul", q, keys, name=f"{scope}/C2P/MatMul")  # (B, H, S, 2S)
        found.append(_shift(g, scores, at, f"{scope}/C2P"))
    if "p2c" in tables:
        queries = _columns(g, tables["p2c"], at.rising, f"{scope}/P2C")
        scores = g.op("MatMul", k, queries, name=f"{scope}/P2C/MatMul")
        shifted = _shift(g, scores, at, f"{scope}/P2C")  # [j, i]
        found.append(g.op("Transpose", shifted, name=f"{scope}/P2C/Turn", perm=[0, 1, 3, 2]))
    return found


def first_position_scores(
    g: Scope, q: str, k: str, tables: Mapping[str, str], at: Distances, scope: str
) -> list[str]:
    """Return `position_scores` of the first position, (B, H, 1, S) each; q is (B, H, 1, D)."""
    found = []
    if "c2p" in tables:
        keys = _columns(g, tables["c2p"], at.from_first, f"{scope}/C2P")
        found.append(g.op("MatMul", q, keys, name=f"{scope}/C2P/MatMul"))
    if "p2c" in tables:
        rows = g.op("Gather", tables["p2c"], at.from_first, name=f"{scope}/P2C/Gather", axis=1)
        product = g.op("Mul", k, rows, name=f"{scope}/P2C/Mul")
        scores = g.op("ReduceSum", product, g.ints(-1), name=f"{scope}/P2C/Sum", keepdims=0)
        found.append(g.op("Unsqueeze", scores, g.ints(2), name=f"{scope}/P2C/Unsqueeze"))
    return found


def _columns(g: Scope, table: str, rows: str, name: str) -> str:
    """Take rows of a table as columns: (H, 2·span, D) → (H, D, rows)."""
    taken = g.op("Gather", table, rows, name=f"{name}/Gather", axis=1)
    return g.op("Transpose", taken, name=f"{name}/Transpose", perm=[0, 2, 1])


def _shift(g: Scope, x: str, at: Distances, name: str) -> str:
    """Return y[i, j] = x[i, j - i + S - 1]: (B, H, S, 2S) → (B, H, S, S).

    Rows of 2S read as rows of 2S-1 shift by one more place each: i·2S + j - i = i·(2S-1) + j.

    Source:
        Dai et al., "Transformer-XL" (arXiv:1901.02860), appendix B.
    """
    flat = g.op("Reshape", x, g.ints(0, 0, -1), name=f"{name}/Flat")
    kept = g.op("Slice", flat, at.last, g.ints(-1), g.ints(2), name=f"{name}/Skip")
    rows = g.op("Reshape", kept, at.shape, name=f"{name}/Rows")  # (B, H, S, 2S-1)
    return g.op("Slice", rows, g.ints(0), at.length, g.ints(3), name=f"{name}/Slice")
