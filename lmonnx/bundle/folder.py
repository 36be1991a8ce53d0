"""A folder from outside: names that stay inside it, files that are no links, sizes and hashes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from lmonnx.bundle.manifest import FileInfo
from lmonnx.errors import BundleError


def is_plain_name(name: str) -> bool:
    """Say that `name` is of a file below its folder, in one spelling that every system reads."""
    plain = not set(name.split("/")) & {"", ".", ".."}
    # What is not printable would forge lines of a log, or is no name at all (a lone surrogate).
    return plain and name.isprintable() and not set(name) & set("\\:")


def contained(root: Path, name: str) -> Path:
    """Return the path of the file `name` below `root`.

    Raises:
        BundleError: `name` is absolute, leaves the folder, or passes through a symbolic link.
    """
    if not is_plain_name(name):
        raise BundleError(
            f"{root} names the file {name!r:.200}, which is not a path inside the bundle"
        )
    path = root
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{path} is a symbolic link; a bundle holds only plain files")
    return path


def check_file(root: Path, name: str, info: FileInfo, *, verify: bool) -> None:
    """Hold one file to its size and, with `verify`, to its hash.

    Raises:
        BundleError: The file is missing, no plain file, or not as the manifest says.
    """
    path = contained(root, name)
    try:
        status = path.lstat()
    except OSError as error:
        raise BundleError(f"{path} is missing; copy or export the bundle again") from error
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a plain file; a bundle holds only plain files")
    if status.st_size != info.bytes:
        raise BundleError(
            f"{path} has {status.st_size} bytes, the manifest says {info.bytes}; "
            "copy or export the bundle again"
        )
    if verify and sha256(path) != info.sha256:
        raise BundleError(
            f"{path} is not the file that was hashed (sha256 differs); "
            "copy or export the bundle again"
        )


def sha256(path: Path) -> str:
    """Return the hash of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(root: Path, *, leave_out: str) -> Mapping[str, FileInfo]:
    """Return size and hash of every file below `root` but the one named `leave_out`."""
    found: dict[str, FileInfo] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if relative != leave_out:
                found[relative] = FileInfo(sha256=sha256(path), bytes=path.stat().st_size)
    return dict(sorted(found.items()))
