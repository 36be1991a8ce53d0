"""A .safetensors file → where each tensor lies in it (the file's JSON header, checked)."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from lmonnx.compiler.checkpoint.json_object import parse_object
from lmonnx.compiler.checkpoint.stored import BFLOAT16, StoredTensor, stored_tensor
from lmonnx.errors import StageError

MAX_HEADER = 100_000_000  # the format's own limit

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


def safetensors_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return every tensor's place by name; only the header is read.

    Raises:
        StageError: The header is damaged, an element type is unknown, or a tensor lies outside
            the file (a download that was cut short).

    Source:
        https://huggingface.co/docs/safetensors/index#format
    """
    header, first = _header(path)
    header.pop("__metadata__", None)
    size = path.stat().st_size
    return {name: _tensor(path, name, entry, first, size) for name, entry in header.items()}


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        room = path.stat().st_size - 8
        if not 2 <= length <= min(room, MAX_HEADER):
            raise StageError(
                f"{path} is not a safetensors file, or is cut short: its header should be {length}"
                f" bytes and {max(room, 0)} follow; download it again"
            )
        return parse_object(file.read(length), f"the header of {path}"), 8 + length


def _tensor(path: Path, name: str, entry: object, first: int, size: int) -> StoredTensor:
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(begin), int(end)]} if (
            all(type(number) is int for number in shape)
        ):
            pass
        case _:
            raise StageError(f"{path}: the header's entry for {name!r:.100} is damaged")
    if kind not in DTYPES:
        raise StageError(
            f"{path}: tensor {name!r:.100} has element type {kind!r:.20}, which is not read; save"
            f" the checkpoint as one of {', '.join(DTYPES)}"
        )
    tensor = stored_tensor(
        path,
        name,
        dtype=DTYPES[kind],
        shape=tuple(shape),
        strides=None,
        start=first + max(begin, 0),
        end=size,
    )
    if begin < 0 or end - begin != math.prod(tensor.shape) * tensor.dtype.itemsize:
        raise StageError(f"{path}: tensor {name!r:.100} has offsets that do not fit its shape")
    return tensor
