"""A GGUF header's entry → the tensor, dequantized a few megabytes at a time when it is read.

Only this module imports the `gguf` package, and only what decodes blocks and says their sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmonnx.compiler.checkpoint.gguf_header import GgufHeader, TensorEntry
from lmonnx.compiler.checkpoint.stored import BFLOAT16, MAX_ELEMENTS, StoredTensor, stored_tensor
from lmonnx.errors import StageError

CHUNK = 2**20  # elements that are read at once
ROW = 2**13  # elements a row given to gguf, which decodes 16 rows at once: one block each takes 20×

_PLAIN: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    24: np.dtype("i1"),
    25: np.dtype("<i2"),
    26: np.dtype("<i4"),
    27: np.dtype("<i8"),
    28: np.dtype("<f8"),
    30: BFLOAT16,
}

Decode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class BlockType:
    """An element type that packs `size` numbers in `nbytes` bytes.

    Attributes:
        name: As llama.cpp spells it, such as Q4_K.
        size: Numbers a block.
        nbytes: Bytes a block.
        decode: uint8 (rows, some blocks' bytes) → float32 (rows, their numbers).
    """

    name: str
    size: int
    nbytes: int
    decode: Decode


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """Say where a tensor's blocks are; `read` is the only thing that touches the file."""

    path: Path
    shape: tuple[int, ...]
    start: int
    type: BlockType

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return what it is read as: the numbers have no type of their own."""
        return np.dtype(np.float32)

    def read(self) -> npt.NDArray[Any]:
        """Return a new float32 array; beyond it this holds a few times `CHUNK` numbers.

        Raises:
            StageError: The file has gone, or is shorter than it was.
        """
        result = np.empty(math.prod(self.shape), np.float32)
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                for first in range(0, result.size, CHUNK):
                    part = result[first : first + CHUNK]
                    data = file.read(part.size // self.type.size * self.type.nbytes)
                    self._decode(np.frombuffer(data, np.uint8), part)
        except (OSError, ValueError) as error:
            raise StageError(f"{self.path} cannot be read: {error}; download it again") from error
        return result.reshape(self.shape)

    def _decode(self, packed: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> None:
        """Decode blocks, the most of them in rows of `ROW` numbers, into `out`."""
        whole = out.size // ROW * ROW
        cut = whole // self.type.size * self.type.nbytes
        # A scale that is no number stays one, as in llama.cpp, without a warning.
        with np.errstate(over="ignore", invalid="ignore"):
            for bytes_, numbers in ((packed[:cut], out[:whole]), (packed[cut:], out[whole:])):
                if numbers.size:
                    rows = max(numbers.size // ROW, 1)
                    numbers[:] = self.type.decode(bytes_.reshape(rows, -1)).ravel()


def open_tensors(header: GgufHeader) -> dict[str, StoredTensor | QuantizedTensor]:
    """Return every tensor by its name in the file; no number is read.

    Raises:
        StageError: A tensor lies outside the file, or has a type that cannot be decoded.
    """
    size = header.path.stat().st_size
    codes = {entry.code for entry in header.tensors.values()} - _PLAIN.keys()
    types = _block_types(header, sorted(codes)) if codes else {}
    found: dict[str, StoredTensor | QuantizedTensor] = {}
    for name, entry in header.tensors.items():
        if entry.code in _PLAIN:
            found[name] = stored_tensor(
                header.path,
                name,
                dtype=_PLAIN[entry.code],
                shape=entry.shape,
                strides=None,
                start=entry.start,
                end=size,
            )
        else:
            found[name] = _quantized(header.path, name, entry, types[entry.code], size)
    return found


def _quantized(
    path: Path, name: str, entry: TensorEntry, kind: BlockType, size: int
) -> QuantizedTensor:
    count = math.prod(entry.shape)
    if count > MAX_ELEMENTS or entry.shape[-1] % kind.size:
        raise StageError(
            f"{path}: tensor {name!r} of {kind.name} has shape {entry.shape}, whose rows are not"
            f" whole blocks of {kind.size}; the file is damaged, download it again"
        )
    end = entry.start + count // kind.size * kind.nbytes
    if end > size:
        raise StageError(
            f"{path}: tensor {name!r} needs bytes {entry.start} to {end} and the file ends at"
            f" {size}; it is cut short or damaged, download it again"
        )
    return QuantizedTensor(path, entry.shape, entry.start, kind)


def _block_types(header: GgufHeader, codes: Iterable[int]) -> dict[int, BlockType]:
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
    except ImportError as error:
        raise StageError(
            f"{header.path} holds quantized tensors, and decoding them needs: pip install"
            " 'lmonnx[export]'"
        ) from error
    found = {}
    for code in codes:
        try:
            kind = GGMLQuantizationType(code)
            size, nbytes = GGML_QUANT_SIZES[kind]

            def decode(blocks: npt.NDArray[np.uint8], kind: Any = kind) -> npt.NDArray[np.float32]:
                return np.asarray(dequantize(blocks, kind), np.float32)

            decode(np.zeros((1, nbytes), np.uint8))
        except (ValueError, KeyError, NotImplementedError) as error:
            raise StageError(
                f"{header.path} has tensors of type {code}, which the gguf package here cannot"
                " decode; take a file of F16, Q8_0 or Q4_K, or update gguf"
            ) from error
        found[code] = BlockType(kind.name, size, nbytes, decode)
    return found


def are_copies(one: StoredTensor | QuantizedTensor, other: StoredTensor | QuantizedTensor) -> bool:
    """Return whether two tensors of one file are the same bytes of the same type and shape."""
    kind, nbytes = _extent(one)
    if one.shape != other.shape or (kind, nbytes) != _extent(other):
        return False
    with one.path.open("rb") as left, other.path.open("rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        for first in range(0, nbytes, 4 * CHUNK):
            size = min(4 * CHUNK, nbytes - first)
            if left.read(size) != right.read(size):
                return False
    return True


def _extent(tensor: StoredTensor | QuantizedTensor) -> tuple[str, int]:
    """Return a tensor's element type and how many bytes it takes."""
    count = math.prod(tensor.shape)
    if isinstance(tensor, QuantizedTensor):
        return tensor.type.name, count // tensor.type.size * tensor.type.nbytes
    return str(tensor.dtype), count * tensor.dtype.itemsize
