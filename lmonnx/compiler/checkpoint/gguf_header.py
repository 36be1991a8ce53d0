"""A .gguf file → its metadata and where each tensor lies, read with every length bounded first.

Not `gguf.GGUFReader`, which maps the file and believes its counts, lengths and offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from lmonnx.errors import StageError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER = 128 * 2**20  # a vocabulary of 262,144 with its merges takes 16 MiB
MAX_KEYS = 10_000
MAX_TENSORS = 100_000
MAX_STRINGS = 4_000_000  # in one array; the largest are merges, about 500,000
MAX_NAME = 128  # llama.cpp takes 63
MAX_DIMS = 4
MAX_ALIGNMENT = 2**20

_STRING, _ARRAY, _FLOAT32, _BOOL = 8, 9, 6, 7
_NUMBERS = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the header says of one tensor.

    Attributes:
        shape: Slowest dimension first, as in numpy; the file has it the other way round.
        code: Its element type, a `gguf.GGMLQuantizationType`.
        start: Its first byte in the file.
    """

    shape: tuple[int, ...]
    code: int
    start: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Hold a file's metadata and tensors by name.

    Metadata values are bool, int, float, str, list[str] or a numpy array of numbers.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]


def read_header(path: Path) -> GgufHeader:
    """Return what stands before the tensors' data.

    Raises:
        StageError: The file is no GGUF of version 2 or 3, is cut short or damaged.

    Source:
        https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    try:
        with path.open("rb") as file:
            return _header(_Cursor(path, file))
    except OSError as error:
        raise StageError(f"{path} cannot be read: {error.strerror or error}") from error


class _Cursor:
    """A place in the file that never moves past its end or `MAX_HEADER`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file
        self.size = path.stat().st_size
        self.at = 0

    def damaged(self, what: str) -> StageError:
        return StageError(f"{self.path} is damaged or cut short: {what}; download it again")

    def need(self, count: int, what: str) -> None:
        """Refuse, before anything is allocated, what the file cannot hold."""
        room = min(self.size, MAX_HEADER) - self.at
        if count > room:
            raise self.damaged(f"{what} should take {count} bytes, where {room} may follow")

    def take(self, count: int, what: str) -> bytes:
        self.need(count, what)
        data = self._file.read(count)
        if len(data) < count:
            raise self.damaged(f"it ends within {what}")
        self.at += count
        return data

    def number(self, code: int, what: str) -> Any:
        dtype = np.dtype(_NUMBERS[code])
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0]

    def uint32(self, what: str) -> int:
        return int(struct.unpack("<I", self.take(4, what))[0])

    def uint64(self, what: str) -> int:
        return int(struct.unpack("<Q", self.take(8, what))[0])

    def string(self, what: str) -> str:
        data = self.take(self.uint64(f"the length of {what}"), what)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"{what} is not UTF-8") from error

    def name(self, what: str) -> str:
        name = self.string(what)
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise self.damaged(f"{what} is {name!r:.60}")
        return name


def _header(cursor: _Cursor) -> GgufHeader:
    _check_version(cursor)
    tensors = cursor.uint64("the number of tensors")
    keys = cursor.uint64("the number of keys")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise cursor.damaged(f"it should hold {tensors} tensors and {keys} keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.name("a key")
        if key in metadata:
            raise cursor.damaged(f"the key {key!r} is there twice")
        metadata[key] = _value(cursor, key)
    return GgufHeader(
        cursor.path, metadata, _tensors(cursor, tensors, _alignment(cursor, metadata))
    )


def _check_version(cursor: _Cursor) -> None:
    magic = cursor.take(4, "the magic")
    if magic != MAGIC:
        raise StageError(f"{cursor.path} is not a GGUF file: it begins with {magic!r}")
    version = cursor.uint32("the version")
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise StageError(
            f"{cursor.path} is big-endian; convert it again for little-endian machines"
        )
    raise StageError(
        f"{cursor.path} is GGUF version {version}, and {' and '.join(map(str, VERSIONS))} are read;"
        " convert the model again with a current llama.cpp"
    )


def _value(cursor: _Cursor, key: str) -> Any:
    what = f"the value of {key!r}"
    code = cursor.uint32(f"the type of {key!r}")
    if code == _STRING:
        return cursor.string(what)
    if code == _ARRAY:
        return _array(cursor, key)
    if code not in _NUMBERS:
        raise cursor.damaged(f"{what} has type {code}, which there is not")
    value = cursor.number(code, what)
    if code == _BOOL:
        return bool(value)
    # The shortest decimal that is this float32: 1e-05, as config.json has it, not 9.99999975e-06.
    return float(str(value)) if code == _FLOAT32 else value.item()


def _array(cursor: _Cursor, key: str) -> Any:
    what = f"the array {key!r}"
    code = cursor.uint32(f"the type of {what}")
    count = cursor.uint64(f"the length of {what}")
    if code == _STRING:
        cursor.need(count * 8, what)
        if count > MAX_STRINGS:
            raise cursor.damaged(f"{what} should hold {count} strings")
        return [cursor.string(what) for _ in range(count)]
    if code not in _NUMBERS:
        raise cursor.damaged(f"{what} has elements of type {code}, which are not read")
    dtype = np.dtype(_NUMBERS[code])
    cursor.need(count * dtype.itemsize, what)
    return np.frombuffer(cursor.take(count * dtype.itemsize, what), dtype)


def _alignment(cursor: _Cursor, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", 32)
    if (
        type(alignment) is not int
        or not 0 < alignment <= MAX_ALIGNMENT
        or alignment & alignment - 1
    ):
        raise cursor.damaged(f"general.alignment is {alignment!r:.40}, no power of two")
    return alignment


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, TensorEntry]:
    entries: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = cursor.name("a tensor's name")
        if name in entries:
            raise cursor.damaged(f"the tensor {name!r} is there twice")
        dims = cursor.uint32(f"the rank of {name!r}")
        if not 1 <= dims <= MAX_DIMS:
            raise cursor.damaged(f"tensor {name!r} has {dims} dimensions")
        shape = tuple(cursor.uint64(f"the shape of {name!r}") for _ in range(dims))[::-1]
        if 0 in shape:
            raise cursor.damaged(f"tensor {name!r} is empty, of shape {shape}")
        code = cursor.uint32(f"the type of {name!r}")
        entries[name] = (shape, code, cursor.uint64(f"the place of {name!r}"))
    data = -(-cursor.at // alignment) * alignment
    return {
        name: TensorEntry(shape, code, _start(cursor, name, data, offset, alignment))
        for name, (shape, code, offset) in entries.items()
    }


def _start(cursor: _Cursor, name: str, data: int, offset: int, alignment: int) -> int:
    if offset % alignment or data + offset > cursor.size:
        raise cursor.damaged(f"tensor {name!r} should begin at byte {data + offset}")
    return data + offset
