"""Products and lookups by blocks of integers, as nodes of a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from lmonnx.compiler.graph import read_weight, renamed
from lmonnx.compiler.quantize.blocks import Blocks
from lmonnx.compiler.quantize.forms import Form
from lmonnx.compiler.quantize.rounding import Rounding
from lmonnx.runtime.row_weights import centred

# Integers of 8 bits are made of activations too: the floats of level 0 are slower than no bundle.
_INTEGERS = 4


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """Blocks as tensors of a file, in the shapes of products; without `zeros` 0 is the middle."""

    form: Form
    blocks: onnx.TensorProto
    scales: onnx.TensorProto
    zeros: onnx.TensorProto | None

    def matrix(self, folder: Path, inputs: int) -> NDArray[np.float32]:
        """Return the weights that they stand for, of 4 bits, read from a folder: (K, N)."""
        zeros = None if self.zeros is None else read_weight(self.zeros, folder)
        values = centred(read_weight(self.blocks, folder), zeros)
        values *= read_weight(self.scales, folder)[..., None]
        floats: NDArray[np.float32] = values.reshape(len(values), -1)[:, :inputs].T
        return floats


@dataclass(slots=True)
class BlockWriter(Rounding):
    """Writes products and lookups by blocks, which are kept by the name of the float matrix."""

    blocks: dict[str, StoredBlocks] = field(default_factory=dict)

    def product(self, x: str, weight: str, outputs: int, inputs: int, name: str, y: str) -> None:
        """Append y = x·Ŵᵀ for stored blocks of (N, K)."""
        held = self.blocks[weight]
        attributes = {
            "K": inputs,
            "N": outputs,
            "bits": held.form.bits,
            "block_size": held.form.block_size,
            "accuracy_level": _INTEGERS,
        }
        stored = [f"{weight}_blocks", f"{weight}_scales"]
        if held.zeros is not None:
            stored.append(f"{weight}_zeros")
        self.op("MatMulNBits", [x, *stored], f"{name}/blocks", y, **attributes)

    def lookup(self, ids: str, weight: str, name: str, y: str) -> None:
        """Append y = rows of Ŵ for stored blocks of a table (V, E), E without a remainder."""
        held = self.blocks[weight]
        attributes = {
            "bits": held.form.bits,
            "block_size": held.form.block_size,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        # Products want (V, blocks, bytes), lookups (V, bytes), of the same place in the file.
        table = f"{weight}_table"
        if table not in self.added:
            rows, *inner = held.blocks.dims
            self.added[table] = renamed(held.blocks, table, (rows, prod(inner)))
        stored = [table, ids, f"{weight}_scales"]
        if held.zeros is not None:
            stored.append(f"{weight}_zeros")
        self.op("GatherBlockQuantized", stored, f"{name}/blocks", y, **attributes)

    def store_blocks(self, weight: str, made: Blocks) -> StoredBlocks:
        """Store blocks, outside of the graph however few they are, so that others can read them."""
        form = Form(made.bits, made.integers.shape[-1])
        add = self.weights.add
        blocks, scales = add(weight, made.packed()), add(weight, made.scales)
        zeros = None if made.is_symmetric else add(weight, made.packed_zeros())
        return self.share_blocks(weight, StoredBlocks(form, blocks, scales, zeros))

    def share_blocks(self, weight: str, held: StoredBlocks) -> StoredBlocks:
        """Take what is stored already."""
        for part in ("blocks", "scales", "zeros"):
            if (tensor := getattr(held, part)) is not None:
                self.added[f"{weight}_{part}"] = renamed(tensor, f"{weight}_{part}")
        self.blocks[weight] = held
        return held
