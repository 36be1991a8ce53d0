"""The objects that torch.save pickles → stand-ins that name storages and views, and hold no number.

`_TABLE` is the allow-list: whatever else a file names is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from lmonnx.compiler.checkpoint.stored import BFLOAT16
from lmonnx.compiler.checkpoint.unpickle import Call, unpickle
from lmonnx.errors import StageError

_STORAGES: dict[str, np.dtype[Any]] = {
    "Double": np.dtype("<f8"),
    "Float": np.dtype("<f4"),
    "Half": np.dtype("<f2"),
    "BFloat16": BFLOAT16,
    "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"),
    "Byte": np.dtype("u1"),
    "Bool": np.dtype("?"),
}
_DTYPES = {
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("bool", "double", "float", "half", "long", "int", "short"),
}


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Name a storage: its key beside the pickle and the type of its elements."""

    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Name a tensor as a view of a storage; offset and strides count elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load_object(data: BytesIO, path: Path, storages: dict[str, StorageRef] | None = None) -> object:
    """Return the next pickled value, with a `TensorRef` for every tensor in it.

    `storages` collects the storages that the value names, by key.

    Raises:
        StageError: The pickle is damaged or names, calls or holds what weights have no reason to.
    """

    def persistent(operand: object) -> StorageRef:
        match operand:
            case ("storage", np.dtype() as dtype, str(key), str(), int(), *view) if view in (
                [],
                [None],
            ):
                ref = StorageRef(key, dtype)
            case _:
                raise StageError(
                    f"{path} refers to something other than a storage, which a weights file has no"
                    " reason to; ask its author for safetensors"
                )
        if storages is not None:
            storages[key] = ref
        return ref

    return unpickle(data, str(path), table=_TABLE, persistent=persistent)


def _are_sizes(numbers: tuple[object, ...]) -> bool:
    return all(type(number) is int and 0 <= number < 2**63 for number in numbers)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> TensorRef:
    match arguments:
        case (StorageRef() as storage, int(offset), tuple(shape), tuple(strides), *rest):
            # The seventh argument of `_rebuild_tensor_v2` marks conjugate or negated views.
            if len(shape) == len(strides) and _are_sizes((offset, *shape, *strides)):
                if len(rest) > 2 and rest[2]:
                    raise ValueError("a conjugate or negative view")
                return TensorRef(storage, offset, shape, strides)
    raise ValueError("other than a storage, an offset, a shape and strides")


def _rebuild_parameter(arguments: tuple[Any, ...]) -> TensorRef:
    match arguments:
        case (TensorRef() as tensor, *_):
            return tensor
    raise ValueError("no tensor")


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[str, Any]:
    pairs = arguments[0] if len(arguments) == 1 else []
    if len(arguments) > 1 or not isinstance(pairs, list):
        raise ValueError("other than a list of pairs")
    result = {}
    for pair in pairs:
        match pair:
            case [str(key), value] | (str(key), value):
                result[key] = value
            case _:
                raise ValueError("a key that is no text")
    return result


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    match arguments:
        case (tuple(sizes),) | (list(sizes),) if _are_sizes(tuple(sizes)):
            return tuple(sizes)
    raise ValueError("other than sizes")


_TABLE: dict[str, object] = {
    "collections.OrderedDict": Call("OrderedDict", _ordered_dict),
    "torch._utils._rebuild_tensor": Call("_rebuild_tensor", _rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Call("_rebuild_tensor_v2", _rebuild_tensor),
    "torch._utils._rebuild_parameter": Call("_rebuild_parameter", _rebuild_parameter),
    "torch.Size": Call("Size", _size),
    **{f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()},
    # A dtype beside the weights (a config that was pickled with them) is a name and no more.
    **{f"torch.{name}": f"torch.{name}" for name in _DTYPES},
}
