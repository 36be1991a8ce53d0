"""Products of rows of integers, and the table that is looked up and multiplied at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from lmonnx.bundle.manifest import RowWeights, Span
from lmonnx.compiler.graph import place_of
from lmonnx.compiler.quantize.block_writer import BlockWriter, StoredBlocks
from lmonnx.compiler.quantize.folding import Factors
from lmonnx.compiler.quantize.rounding import Scale
from lmonnx.compiler.quantize.weights import Columns, column_scales

# Behind the end of any file: what takes the graph without its made weights fails, and says so.
_NOWHERE = 1 << 40


@dataclass(slots=True)
class RowWriter(BlockWriter):
    """Writes products of uint8 rows, (x - 128) · scale, with int8 columns.

    `tables` are the scales of the tables that are stored, by the name of the float one; `made` are
    the matrices that are not, which loading makes of blocks.
    """

    tables: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    made: list[RowWeights] = field(default_factory=list)

    def store_columns(self, weight: str, columns: Columns) -> None:
        """Store integers (K, N) and their scales, (N,), of a matrix."""
        self.store(f"{weight}_int8", columns[0])
        self.store(f"{weight}_scale", columns[1])

    def make_columns(
        self, weight: str, float_matrix: onnx.TensorProto, held: StoredBlocks, factors: Factors
    ) -> None:
        """Let loading make the integers of stored blocks with factors; store their scales alone."""
        name, (inputs, outputs) = f"{weight}_int8", float_matrix.dims
        if name in self.added:
            return
        folder = self.weights.folder
        scales = column_scales(factors.apply(weight, held.matrix(folder, inputs)))
        self.store(f"{weight}_scale", scales)
        steps = np.array(scales)
        if weight in factors.columns:
            start, inverse = factors.columns[weight]
            steps[start : start + len(inverse)] /= inverse
        zeros, rows = held.zeros, factors.rows.get(weight)
        self.made.append(
            RowWeights(
                name,
                (inputs, outputs),
                held.form.block_size,
                blocks=_span(held.blocks),
                scales=_span(held.scales),
                steps=_span(self.weights.add(name, steps)),
                zeros=None if zeros is None else _span(zeros),
                factors=None if rows is None else _span(self.weights.add(name, rows)),
            )
        )
        self.added[name] = self.weights.tensor_at(name, np.int8, (inputs, outputs), _NOWHERE)

    def row_product(
        self,
        x: str,
        weight: str,
        name: str,
        y: str,
        *,
        fixed: Scale | None = None,
        bias: str = "",
    ) -> None:
        """Append y = x·Ŵ (+ bias); only with a scale known beforehand can the bias be inside.

        Args:
            x: The float value, (…, K).
            weight: The float matrix's name, whose columns are stored or made.
            name: The nodes' stem.
            y: What the result is called.
            fixed: The scale of x, the same for every row; None scales each row by its largest.
            bias: A constant, (N,).
        """
        stored = [f"{weight}_int8", f"{weight}_scale"]
        if fixed is not None:
            u, scale, zero = self.fixed(x, fixed)
            inputs = [u, stored[0], scale, stored[1], zero, *(["", bias] if bias else [])]
            self.op("MatMulIntegerToFloat", inputs, name, y)
            return
        u, scale, zero = self.rows(x)
        inputs = [u, stored[0], self.scalar("one"), stored[1], zero]
        product = self.op("MatMulIntegerToFloat", inputs, name)
        self.op("Mul", [product, scale], f"{name}/row_scale", y)

    def store_table(self, weight: str, columns: Columns) -> None:
        """Store a table (V, E) of which a row is a column of the product: one for both ends.

        Args:
            weight: The float table's name.
            columns: Integers (E, V) and their scales, (V,).
        """
        self.store(f"{weight}_table_int8", columns[0].T)
        self.tables[weight] = columns[1]

    def row_lookup(
        self,
        ids: str,
        weight: str,
        name: str,
        y: str,
        *,
        factor: float = 1.0,
        channels: NDArray[np.float32] | None = None,
    ) -> None:
        """Append y = factor · rows of a stored table, each channel divided by its own of (E,)."""
        scales = self.tables[weight] * np.float32(factor)
        stored = self.store(f"{name}/row_scale", scales[:, None])
        rows = self.op("Gather", [f"{weight}_table_int8", ids], f"{name}/int8", axis=0)
        scale = self.op("Gather", [stored, ids], f"{name}/scale", axis=0)
        floats = self.op("Cast", [rows], f"{name}/Cast", to=1)
        if channels is not None:
            inverse = self.store(f"{weight}_channels", (1 / channels).astype(np.float32))
            floats = self.op("Mul", [floats, inverse], f"{name}/channels")
        self.op("Mul", [floats, scale], f"{name}/Mul", y)

    def table_product(
        self,
        x: str,
        weight: str,
        name: str,
        y: str,
        fixed: Scale | None,
        *,
        bias: NDArray[np.int32] | None = None,
        flat: bool = False,
    ) -> None:
        """Append y = x·Ŵᵀ (+ bias) of a stored table (V, E): (…, E) → (…, V), or flat (N, V).

        With a scale known beforehand the bias (V,) can be inside, in steps of both scales, and
        rows can stay flat, which saves a copy where y is an output of the graph.
        """
        table = f"{weight}_table_int8"
        u, scale, zero = self.rows(x) if fixed is None else self.fixed(x, fixed)
        one_scale = scale if fixed is not None else self.scalar("one")
        width = self.store(f"{name}/width", np.array([-1, self.added[table].dims[1]], np.int64))
        rows = self.op("Reshape", [u, width], f"{name}/rows")
        scales = self.store(f"{weight}_scale", self.tables[weight])
        zeros = self.store(f"{weight}_zeros", np.zeros(len(self.tables[weight]), np.int8))
        inputs = [rows, one_scale, zero, table, scales, zeros]
        if bias is not None:
            inputs.append(self.store(f"{name}/bias", bias))
        if flat:
            self.op("QGemm", inputs, name, y, transB=1)
            return
        product = self.op("QGemm", inputs, name, transB=1)
        outer = self.op("Shape", [x], f"{name}/Shape", start=0, end=-1)
        last = self.op("Shape", [product], f"{name}/outputs", start=1)
        shape = self.op("Concat", [outer, last], f"{name}/shape", axis=0)
        # No rows at all, of which a chunk of a prompt wants logits, stay none.
        if fixed is not None:
            self.op("Reshape", [product, shape], f"{name}/Reshape", y, allowzero=1)
            return
        unscaled = self.op("Reshape", [product, shape], f"{name}/Reshape", allowzero=1)
        self.op("Mul", [unscaled, scale], f"{name}/row_scale", y)


def _span(tensor: onnx.TensorProto) -> Span:
    stated = place_of(tensor)
    return Span(stated["location"], int(stated.get("offset", "0")))
