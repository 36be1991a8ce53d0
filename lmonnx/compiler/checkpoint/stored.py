"""One tensor's place in a file → the array, read when asked and never cached."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from lmonnx.errors import StageError

CHUNK = 4 * 2**20  # bytes read at once: what a read needs beyond its result
MAX_EXPANSION = 8  # a tensor larger than its file this many times is a trap, not a weight
MAX_DIMS = 32  # numpy 1.26's own limit
MAX_ELEMENTS = 2**48  # keeps every product of sizes inside an int64

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
_FLOATS = frozenset({np.dtype("<f8"), np.dtype("<f4"), np.dtype("<f2"), BFLOAT16})


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Say where a tensor's numbers are; `read` is the only thing that touches the file.

    Attributes:
        path: The file.
        dtype: As stored.
        shape: Any rank up to 32.
        start: Bytes before element 0, from the file's start (from the member's, if there is one).
        strides: In elements, one a dimension; None for C order without gaps.
        member: The entry of a zip to read through `zipfile` because it is compressed, else "".
    """

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...] | None = None
    member: str = ""

    def read(self) -> npt.NDArray[Any]:
        """Return a new C-order array: float32 for every float type, else the stored type.

        Beyond the result this holds 4 MiB, or the stored span when `strides` are not C order.

        Raises:
            StageError: The file has gone, is shorter than it was, or cannot be read.
        """
        try:
            with self._opened() as file:
                return self._contiguous(file) if self.strides is None else self._strided(file)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise StageError(f"{self.path} cannot be read: {error}; download it again") from error

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        if self.member:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as entry:
                entry.seek(self.start)
                yield entry
        else:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                yield file

    def _contiguous(self, file: IO[bytes]) -> npt.NDArray[Any]:
        result = np.empty(self.shape, _result_dtype(self.dtype))
        _fill(result.reshape(-1), file, self.dtype, self.path)
        return result

    def _strided(self, file: IO[bytes]) -> npt.NDArray[Any]:
        strides = self.strides or ()
        stored = np.empty(span(self.shape, strides), self.dtype)
        _fill(stored, file, self.dtype, self.path)
        steps = tuple(stride * self.dtype.itemsize for stride in strides)
        view = np.lib.stride_tricks.as_strided(stored, self.shape, steps, writeable=False)
        return view.astype(_result_dtype(self.dtype), order="C")


def stored_tensor(
    path: Path,
    name: str,
    *,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    start: int,
    end: int,
    member: str = "",
) -> StoredTensor:
    """Return the record after checking that every number it names lies in [start, end).

    `start` is the first byte of element 0, `end` the first byte after what may be read; `strides`
    count elements, and those of C order (sizes of 1 may stride anyhow) become None.

    Raises:
        StageError: The shape is negative or absurd, or an element lies outside.
    """
    strides = None if strides is None or _is_c_order(shape, strides) else strides
    _check_shape(path, name, shape, strides, dtype.itemsize)
    extent = math.prod(shape) if strides is None else span(shape, strides)
    if start < 0 or start + extent * dtype.itemsize > end:
        raise StageError(
            f"{path}: tensor {name!r:.100} needs bytes {start} to {start + extent * dtype.itemsize}"
            f" and its data ends at {end}; the file is cut short or damaged, download it again"
        )
    return StoredTensor(path, dtype, shape, start, strides, member)


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return how many elements lie between the first and the last that strides reach, inclusive."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _check_shape(
    path: Path, name: str, shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int
) -> None:
    negative = any(number < 0 for number in (*shape, *(strides or ())))
    if negative or len(shape) > MAX_DIMS or math.prod(max(n, 1) for n in shape) > MAX_ELEMENTS:
        raise StageError(f"{path}: tensor {name!r:.100} has a shape that no weight has")
    if math.prod(shape) * itemsize > MAX_EXPANSION * path.stat().st_size:
        raise StageError(
            f"{path}: tensor {name!r:.100} would be over {MAX_EXPANSION} times as large as the file"
        )


def _is_c_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype in _FLOATS else dtype


def _fill(out: npt.NDArray[Any], file: IO[bytes], dtype: np.dtype[Any], path: Path) -> None:
    # Plain reads, not mmap or safetensors: mapped pages count in RSS until the whole file is in it.
    step = CHUNK // dtype.itemsize
    for first in range(0, out.size, step):
        part = out[first : first + step]
        # Not named, so that the chunk is freed before the next is read.
        part[:] = np.frombuffer(_read_exactly(file, part.size * dtype.itemsize, path), dtype)


def _read_exactly(file: IO[bytes], size: int, path: Path) -> bytes | bytearray:
    data = file.read(size)
    while len(data) < size:
        more = file.read(size - len(data))
        if not more:
            raise StageError(f"{path} ends before its tensors do; download it again")
        data += more
    return data
