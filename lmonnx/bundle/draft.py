"""The only writer of bundles: a temporary sibling that takes the target's name when it is whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.folder import hash_files
from lmonnx.bundle.manifest import MANIFEST, Manifest
from lmonnx.errors import StageError

try:
    import fcntl
except ImportError:  # Windows: leftovers of a killed stage are then never swept
    fcntl = None  # type: ignore[assignment]

_DRAFT, _ASIDE = "draft", "aside"


@dataclass(frozen=True, slots=True)
class Draft:
    """A bundle in the making; it exists at `path` until its block ends."""

    path: Path

    def file(self, name: str) -> Path:
        """Return the path of `name`, whose folder exists."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def copy(self, bundle: Bundle, names: Iterable[str]) -> None:
        """Take files over from another bundle as they are."""
        for name in names:
            shutil.copyfile(bundle.file(name), self.file(name))

    def seal(self, manifest: Manifest) -> Manifest:
        """Hash all files and write the manifest, which is the last file of a bundle."""
        sealed = replace(manifest, files=hash_files(self.path, leave_out=MANIFEST))
        self.file(MANIFEST).write_text(sealed.to_json(), encoding="utf-8")
        return sealed


@contextmanager
def draft_at(target: Path, *, force: bool = False) -> Iterator[Draft]:
    """Give a folder to write a bundle in; it becomes `target` only if the block succeeds.

    A process that is killed leaves at most a hidden sibling, which the next run sweeps. With
    `force` an existing bundle is moved aside first and put back if its successor cannot take
    its place.

    Raises:
        StageError: The target exists (without `force`), is no bundle, or cannot be written.
    """
    target = Path(os.path.abspath(target))  # the name itself: a link is not followed
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        _check_target(target, force=force)
        temporary = _sibling(target, _DRAFT)
        temporary.mkdir()
    except OSError as error:
        raise StageError(f"cannot write {target}: {error.strerror}") from error
    try:
        with _locked(temporary):
            yield Draft(temporary)
            if not (temporary / MANIFEST).is_file():
                raise StageError(f"the stage for {target} ended without a manifest")
            _install(temporary, target, force=force)
    except OSError as error:
        raise StageError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_target(target: Path, *, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise StageError(f"{target} exists; name another target or pass --force to replace it")
    replaceable = (
        target.is_dir()
        and not target.is_symlink()
        and ((target / MANIFEST).is_file() or not any(target.iterdir()))
    )
    if not replaceable:
        raise StageError(f"{target} exists and is no bundle, so --force does not replace it")


def _install(temporary: Path, target: Path, *, force: bool) -> None:
    _check_target(target, force=force)  # again: something may have come meanwhile
    if not os.path.lexists(target):
        temporary.rename(target)
        return
    aside = _sibling(target, _ASIDE)
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sibling(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{kind}-{secrets.token_hex(6)}"


def _sweep(target: Path) -> None:
    """Delete what killed runs left; a bundle moved aside is put back where the target is gone."""
    if fcntl is None:
        return
    for draft in _siblings(target, _DRAFT):
        try:
            with _locked(draft):
                shutil.rmtree(draft, ignore_errors=True)
        except BlockingIOError as error:
            raise StageError(f"another process is writing {target}; wait until it ends") from error
        except FileNotFoundError:
            continue  # its owner has just finished
    for aside in _siblings(target, _ASIDE):
        if not os.path.lexists(target) and (aside / MANIFEST).is_file():
            aside.rename(target)
        else:
            shutil.rmtree(aside, ignore_errors=True)


def _siblings(target: Path, kind: str) -> list[Path]:
    prefix = f".{target.name}.{kind}-"
    return sorted(path for path in target.parent.iterdir() if path.name.startswith(prefix))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; BlockingIOError if another holds it."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
