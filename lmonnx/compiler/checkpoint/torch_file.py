"""A pytorch_model.bin, zip or legacy stream → where each tensor lies in it, without torch.

torch.save pickles a dict of calls that rebuild tensors from storages, whose bytes lie beside the
pickle. `unpickle` runs it with stand-ins, so that no number is read and nothing else is called.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED

from lmonnx.compiler.checkpoint.stored import MAX_EXPANSION, StoredTensor, stored_tensor
from lmonnx.compiler.checkpoint.torch_objects import StorageRef, TensorRef, load_object
from lmonnx.compiler.checkpoint.unpickle import MAX_BYTES
from lmonnx.errors import StageError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
ZIP_START = b"PK\x03\x04"
STREAM_HEAD = 16 * 2**20  # where a stream's pickles must end: a hundred times what models need
ENCRYPTED = 1  # bit of a zip member's flags
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError),  # a method or a cipher that is not there
)


@dataclass(frozen=True, slots=True)
class Extent:
    """Say which bytes of the file, or of one of its zip members, a storage has."""

    start: int
    end: int
    member: str = ""


def torch_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return every tensor's place by name, from a state dict or {"state_dict": ...}.

    Raises:
        StageError: The file is neither format of torch.save, is damaged, calls anything but the
            functions that rebuild tensors, or has a tensor outside its storage.

    Source:
        torch/serialization.py, `_save` and `_legacy_save`.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == ZIP_START
    value, extents = _from_zip(path) if is_zip else _from_stream(path)
    refs = _state_dict(value)
    if not refs:
        raise StageError(f"{path} holds no tensor by name; it is no file of model weights")
    return {name: _place(path, name, ref, extents) for name, ref in refs.items()}


def _state_dict(value: object) -> dict[str, TensorRef]:
    return _named(value) or _named(value.get("state_dict") if isinstance(value, dict) else None)


def _named(value: object) -> dict[str, TensorRef]:
    if not isinstance(value, dict):
        return {}
    return {k: v for k, v in value.items() if isinstance(v, TensorRef) and isinstance(k, str)}


def _place(
    path: Path, name: str, ref: TensorRef, extents: Callable[[StorageRef], Extent]
) -> StoredTensor:
    extent = extents(ref.storage)
    return stored_tensor(
        path,
        name,
        dtype=ref.storage.dtype,
        shape=ref.shape,
        strides=ref.strides,
        start=extent.start + ref.offset * ref.storage.dtype.itemsize,
        end=extent.end,
        member=extent.member,
    )


def _from_zip(path: Path) -> tuple[object, Callable[[StorageRef], Extent]]:
    try:
        with zipfile.ZipFile(path) as archive:
            prefix = _prefix(path, archive)
            data = _small_member(path, archive, f"{prefix}data.pkl", MAX_BYTES)
            order = f"{prefix}byteorder"
            if order in archive.namelist() and _small_member(path, archive, order, 16) != b"little":
                raise StageError(f"{path} was saved on a big-endian machine, which is not read")
            members = {info.filename: info for info in archive.infolist()}
    except ZIP_ERRORS as error:
        raise StageError(f"{path} is a damaged zip ({error}); download it again") from error

    def extents(storage: StorageRef) -> Extent:
        info = members.get(f"{prefix}data/{storage.key}")
        if info is None:
            raise StageError(f"{path} lacks storage {storage.key!r:.40}; download it again")
        return _member_extent(path, info)

    return load_object(BytesIO(data), path), extents


def _prefix(path: Path, archive: zipfile.ZipFile) -> str:
    """Return the archive's one folder, with a slash at its end."""
    for name in archive.namelist():
        folder, slash, file = name.rpartition("/")
        if file == "data.pkl" and "/" not in folder:
            return folder + slash
    raise StageError(f"{path} is a zip without data.pkl, so not a file of torch.save")


def _small_member(path: Path, archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    _check_member(path, archive.getinfo(name))
    with archive.open(name) as member:
        data = member.read(limit + 1)
    if len(data) > limit:
        raise StageError(f"{path}: {name!r:.60} is over {limit:,} bytes; it is no weights file")
    return data


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & ENCRYPTED or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise StageError(f"{path}: {info.filename!r:.60} is encrypted or packed; save it plain")
    if info.file_size > MAX_EXPANSION * path.stat().st_size:
        raise StageError(f"{path}: {info.filename!r:.60} would unpack to far more than the file")
    if info.header_offset < 0:
        raise StageError(f"{path} has a damaged zip directory; download it again")


def _member_extent(path: Path, info: zipfile.ZipInfo) -> Extent:
    _check_member(path, info)
    if info.compress_type == ZIP_DEFLATED:
        return Extent(0, info.file_size, info.filename)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
    if len(header) < 30 or not header.startswith(ZIP_START):
        raise StageError(f"{path} has a damaged zip directory; download it again")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    if start + info.file_size > path.stat().st_size:
        raise StageError(f"{path} is cut short: {info.filename!r:.60} ends outside; download again")
    return Extent(start, start + info.file_size)


def _from_stream(path: Path) -> tuple[object, Callable[[StorageRef], Extent]]:
    with path.open("rb") as file:
        head = BytesIO(file.read(STREAM_HEAD))
    if head.getvalue()[:1] != b"\x80" or load_object(head, path) != MAGIC:
        raise StageError(
            f"{path} is not a file of torch.save; download it again (a Git LFS pointer is text)"
        )
    if load_object(head, path) != PROTOCOL:
        raise StageError(f"{path} has a torch.save protocol other than {PROTOCOL}")
    match load_object(head, path):
        case {"little_endian": True}:
            pass
        case _:
            raise StageError(f"{path} was saved on a big-endian machine, which is not read")
    storages: dict[str, StorageRef] = {}
    value = load_object(head, path, storages)
    found = _stream_extents(path, load_object(head, path), storages, head.tell())

    def extents(storage: StorageRef) -> Extent:
        if storage.key not in found:
            raise StageError(f"{path} lacks storage {storage.key!r:.40}; download it again")
        return found[storage.key]

    return value, extents


def _stream_extents(
    path: Path, keys: object, storages: dict[str, StorageRef], position: int
) -> dict[str, Extent]:
    """Walk the storages after the pickles: each is a count of elements (int64), then its bytes."""
    if not isinstance(keys, list) or not all(type(key) is str and key in storages for key in keys):
        raise StageError(f"{path} lists storages that no tensor uses; download it again")
    found = {}
    size = path.stat().st_size
    with path.open("rb") as file:
        for key in keys:
            file.seek(position)
            count = int.from_bytes(file.read(8), "little", signed=True)
            start = position + 8
            position = start + count * storages[key].dtype.itemsize
            if count < 0 or position > size:
                raise StageError(f"{path} is cut short in storage {key!r:.40}; download it again")
            found[key] = Extent(start, position)
    return found
