"""Arrays → files laid out as torch.save lays them out, in both its formats, without torch.

Views (slices, transposes) of one array share one storage, as views of one tensor do. The pickle's
instructions are spelled out here, so that a test can also spell what torch never would.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

MAGIC = b"\x80\x02\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
SYS_INFO_KEYS = ("protocol_version", "little_endian")
STORAGES = {
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.int16): "ShortStorage",
    np.dtype(np.int8): "CharStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def dict_of(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def storage(key: str, kind: str = "FloatStorage", size: int = 0, *view: bytes) -> bytes:
    parts = (text("storage"), global_("torch", kind), text(key), text("cpu"), number(size))
    return tuple_of(*parts, *view) + b"Q"


def tensor(
    place: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, *more: bytes
) -> bytes:
    sizes = [tuple_of(*map(number, shape)), tuple_of(*map(number, strides))]
    arguments = tuple_of(place, number(offset), *sizes, b"\x89", ORDERED_DICT, *more)
    return global_("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def parts(
    arrays: Mapping[str, np.ndarray], *, legacy: bool = False
) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return the instructions of a state dict of `arrays`, and its storages by key."""
    storages: dict[str, np.ndarray] = {}
    keys: dict[int, str] = {}
    items = {}
    for name, array in arrays.items():
        base = array if array.base is None else array.base
        key = keys.setdefault(id(base), str(len(keys)))
        storages[key] = base
        start = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        strides = tuple(stride // array.itemsize for stride in array.strides)
        place = storage(key, STORAGES[array.dtype], base.size, *([b"N"] if legacy else []))
        items[name] = tensor(place, array.shape, strides, start // array.itemsize)
    return dict_of(items), storages


def write_zip(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    body: bytes | None = None,
    order: bytes = b"little",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write the format of torch 1.6 and later; `body` replaces the state dict's instructions."""
    made, storages = parts(arrays)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(made if body is None else body))
        archive.writestr("archive/byteorder", order)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_stream(
    path: Path, arrays: Mapping[str, np.ndarray], *, body: bytes | None = None, little: bool = True
) -> Path:
    """Write the format before torch 1.6; `body` replaces the state dict's instructions."""
    made, storages = parts(arrays, legacy=True)
    flags = (number(1001), b"\x88" if little else b"\x89")
    system = dict_of(dict(zip(SYS_INFO_KEYS, flags, strict=True)))
    keys = b"](" + b"".join(text(key) for key in storages) + b"e"
    head = (number(1001), system, made if body is None else body, keys)
    data = b"".join(struct.pack("<q", a.size) + a.tobytes() for a in storages.values())
    path.write_bytes(MAGIC + b"".join(map(pickled, head)) + data)
    return path
