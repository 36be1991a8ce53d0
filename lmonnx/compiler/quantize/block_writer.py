"""Products and lookups by blocks of integers, as nodes of a graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from lmonnx.compiler.quantize.blocks import Blocks
from lmonnx.compiler.quantize.rounding import Rounding

# Integers of 8 bits are made of activations too: the floats of level 0 are slower than no bundle.
_INTEGERS = 4


@dataclass(slots=True)
class BlockWriter(Rounding):
    """Writes products and lookups by `Blocks`, which are kept by the name of the float matrix."""

    blocks: dict[str, Blocks] = field(default_factory=dict)

    def product(self, x: str, weight: str, outputs: int, inputs: int, name: str, y: str) -> None:
        """Append y = x·Ŵᵀ for stored blocks of (N, K)."""
        made = self.blocks[weight]
        attributes = {
            "K": inputs,
            "N": outputs,
            "bits": made.bits,
            "block_size": made.integers.shape[-1],
            "accuracy_level": _INTEGERS,
        }
        stored = [f"{weight}_blocks", f"{weight}_scales"]
        if not made.is_symmetric:
            stored.append(f"{weight}_zeros")
        self.op("MatMulNBits", [x, *stored], f"{name}/blocks", y, **attributes)

    def lookup(self, ids: str, weight: str, name: str, y: str) -> None:
        """Append y = rows of Ŵ for stored blocks of a table (V, E), E without a remainder."""
        made = self.blocks[weight]
        attributes = {
            "bits": made.bits,
            "block_size": made.integers.shape[-1],
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        stored = [f"{weight}_table", ids, f"{weight}_scales"]
        if not made.is_symmetric:
            stored.append(f"{weight}_zeros")
        self.op("GatherBlockQuantized", stored, f"{name}/blocks", y, **attributes)

    def store_blocks(self, weight: str, made: Blocks, *, lookup: bool) -> None:
        """Store the bytes in the shape that products take, and for a lookup in that of a table."""
        packed = made.packed()
        self.store(f"{weight}_blocks", packed)
        self.store(f"{weight}_scales", made.scales)
        if not made.is_symmetric:
            self.store(f"{weight}_zeros", made.packed_zeros())
        if lookup:
            self.store(f"{weight}_table", packed.reshape(len(packed), -1))
        self.blocks[weight] = made
