"""A folder, a GGUF file or a hub id → a `Checkpoint`: configuration, licence and weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lmonnx.compiler.checkpoint.gguf_source import GgufSource, find_gguf
from lmonnx.compiler.checkpoint.hub import fetch
from lmonnx.compiler.checkpoint.json_object import read_object
from lmonnx.compiler.checkpoint.weights import SOURCES, Weights, open_weights
from lmonnx.errors import InputError, StageError

README_BYTES = 64 * 2**10  # the front matter comes first

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[\w.-]{1,96})?", re.ASCII)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n---", re.DOTALL)
_LICENSE = re.compile(r"^license:[ \t]*(?:\n[ \t]*-[ \t]*)?[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Hold what a Hugging Face checkpoint says about itself; weights are opened when asked.

    Attributes:
        path: The folder.
        config: config.json.
        repo: The hub id, or the folder's or file's own name; never a path.
        revision: The commit on the hub, "" for a folder.
        gguf: The file that the folder was made from, and that has the weights; None otherwise.
    """

    path: Path
    config: Mapping[str, Any]
    repo: str
    revision: str = ""
    gguf: GgufSource | None = None

    @property
    def origin(self) -> Path:
        """Return the folder or the GGUF file that the caller gave, where nothing is written."""
        return self.gguf.path if self.gguf else self.path

    @property
    def architecture(self) -> str:
        """Return config.json's `model_type`.

        Raises:
            StageError: There is none.
        """
        name = self.config.get("model_type")
        if not isinstance(name, str) or not name:
            raise StageError(
                f"{self.path / 'config.json'} has no model_type, so the architecture is unknown;"
                " add it as transformers spells it"
            )
        return name

    @property
    def license(self) -> str:
        """Return the `license` of README.md's front matter, "" where it names none."""
        readme = self.path / "README.md"
        if not readme.is_file():
            return ""
        with readme.open("rb") as file:
            text = file.read(README_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n")
        front = _FRONT_MATTER.match(text)
        found = _LICENSE.search(front[1]) if front else None
        return found[1] if found else ""

    def json_file(self, name: str) -> dict[str, Any] | None:
        """Return the object in a file of the folder, None where there is no such file.

        Args:
            name: A path inside the folder, with forward slashes.

        Raises:
            StageError: `name` leads outside, or the file is not an object of at most 64 MiB.
        """
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or set(name) & set("\\:\0"):
            raise StageError(f"{self.repo} refers to the file {name!r:.100}, outside its folder")
        path = self.path / inside
        return read_object(path) if path.is_file() else None

    def weights(self) -> Weights:
        """Return the tensors by name; headers and indexes are read and checked here.

        Raises:
            StageError: There are no weights, or their files are damaged.
        """
        return Weights(self.gguf.tensors) if self.gguf else open_weights(self.path)


def open_checkpoint(
    source: str, *, revision: str | None = None, progress: bool = False
) -> Checkpoint:
    """Open a folder or a GGUF file, or download what is needed of a hub repository first.

    Args:
        source: A folder that exists, or a GGUF file; else a hub id, `name` or `owner/name`.
        revision: A branch, tag or commit on the hub; None is the default branch.
        progress: Show download bars.

    Raises:
        InputError: A revision is asked of a folder or a file.
        StageError: There is neither such a folder nor such a repository, it cannot be reached, or
            its config.json or GGUF file is missing or damaged.
        UnsupportedError: A GGUF file holds an architecture or a tokenizer that is not read.
    """
    folder = Path(source)
    gguf = _gguf(source)
    if gguf or _is_folder(source):
        if revision is not None:
            raise InputError(
                f"{source} is a {'file' if gguf else 'folder'}, which has no revision {revision};"
                " leave it out"
            )
        if gguf:
            opened = GgufSource(gguf)
            return Checkpoint(opened.folder, opened.config, gguf.stem, gguf=opened)
        return Checkpoint(folder, _config(folder, source), folder.resolve().name)
    if not _HUB_ID.fullmatch(source) or folder.exists():
        raise StageError(
            f"{source!r:.200} is neither a folder nor a hub id (owner/name), nor a GGUF file; give"
            " one of them"
        )
    folder, commit = fetch(source, revision, progress=progress)
    return Checkpoint(folder, _config(folder, source), source, commit)


def _is_folder(source: str) -> bool:
    try:
        return bool(source) and Path(source).is_dir()
    except OSError:  # longer than the file system allows
        return False


def _gguf(source: str) -> Path | None:
    """Return the GGUF file that `source` means; a folder's other weights come before it."""
    try:
        path = Path(source)
        others = (*SOURCES, "*.onnx", "onnx/*.onnx")
        if not source or (path.is_dir() and any(any(path.glob(name)) for name in others)):
            return None
        return find_gguf(path)
    except (OSError, ValueError):  # longer than the file system allows, or with a NUL
        return None


def _config(folder: Path, source: str) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise StageError(f"{source} has no config.json, so it is not a Hugging Face checkpoint")
    return read_object(path)
