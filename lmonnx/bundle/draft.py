"""The only writer of bundles: a temporary sibling that takes the target's name when it is whole."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.folder import hash_files
from lmonnx.bundle.manifest import MANIFEST, Manifest, Step
from lmonnx.errors import StageError

# Windows has none: leftovers of a killed stage are never swept there.
_HAS_LOCKS = find_spec("fcntl") is not None

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
def draft_at(target: Path, *, source: Path | None = None, force: bool = False) -> Iterator[Draft]:
    """Give a folder to write a bundle in; it becomes `target` only if the block succeeds.

    `source`, what it is made from, is neither replaced nor written into.

    A process that is killed leaves at most a hidden sibling, which the next run sweeps. With
    `force` an existing bundle is moved aside first and put back if its successor cannot take
    its place.

    Raises:
        StageError: The target exists (without `force`), is no bundle, cannot be written, or is the
            source, around it, or inside a bundle.
    """
    target = target.absolute()  # the name itself: a link is not followed
    try:
        if source is not None:
            _check_apart(source, target)
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
            Bundle.open(temporary, verify=False)  # what cannot be opened never gets the name
            _install(temporary, target, force=force)
    except OSError as error:
        place = error.filename or target
        raise StageError(f"{place}: {error.strerror or error}; nothing was written") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def record(bundle: Bundle, step: Step) -> Bundle:
    """Add a step that changed no file, such as a verification, to a bundle's history.

    The manifest is replaced in one move: another reader sees the old one or the new one.
    """
    manifest = bundle.manifest.with_step(step)
    temporary = bundle.path / f".{MANIFEST}.{secrets.token_hex(6)}"
    try:
        temporary.write_text(manifest.to_json(), encoding="utf-8")
        temporary.replace(bundle.path / MANIFEST)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StageError(f"cannot write {bundle.path / MANIFEST}: {error.strerror}") from error
    return replace(bundle, manifest=manifest)


def _check_apart(source: Path, target: Path) -> None:
    here, there = source.resolve(), target.resolve()
    if here == there or there in here.parents:
        raise StageError(f"{target} is or holds the input {source}; name another target")
    if here in there.parents and (here / MANIFEST).is_file():
        raise StageError(f"{target} is inside the bundle {source}; name a target beside it")


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
    _delete(aside)


def _delete(folder: Path) -> None:
    """Delete a bundle, its manifest first: half of one is never taken for a whole one."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sibling(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{kind}-{secrets.token_hex(6)}"


def _sweep(target: Path) -> None:
    """Delete what killed runs left; a bundle moved aside is put back where the target is gone."""
    if not _HAS_LOCKS:
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
            _delete(aside)


def _siblings(target: Path, kind: str) -> list[Path]:
    name = re.compile(rf"\.{re.escape(target.name)}\.{kind}-[0-9a-f]{{12}}")
    return sorted(path for path in target.parent.iterdir() if name.fullmatch(path.name))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; BlockingIOError if another holds it."""
    if not _HAS_LOCKS:
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
