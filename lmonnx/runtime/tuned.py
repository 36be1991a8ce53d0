"""What `lmonnx tune` measured on this host, kept in the user's cache, beside no bundle.

A file a bundle's graph, CPU, thread limit and onnxruntime: where one of these differs, nothing is
found and the defaults hold.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.fields import decode
from lmonnx.errors import InputError, StageError
from lmonnx.runtime.session import SessionConfig, version
from lmonnx.runtime.threads import available_threads

_CPUINFO = Path("/proc/cpuinfo")
_FIRST = 8192  # bytes of cpuinfo that hold the first processor
_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Tuned:
    """The fastest way that was found to run one bundle on this host."""

    threads: int
    max_tokens: int
    wide_int8: bool
    thread_per_batch: bool


def choose(
    bundle: Bundle, providers: Sequence[str], threads: int | None, max_tokens: int | None
) -> SessionConfig:
    """Return how to run a bundle: what is asked, else what was tuned, else the defaults."""
    tuned = read(bundle, providers)
    if tuned is None:
        return SessionConfig(tuple(providers), threads, max_tokens)
    return SessionConfig(
        tuple(providers),
        tuned.threads if threads is None else threads,
        tuned.max_tokens if max_tokens is None else max_tokens,
        wide_int8=tuned.wide_int8,
        thread_per_batch=tuned.thread_per_batch,
    )


def read(bundle: Bundle, providers: Sequence[str]) -> Tuned | None:
    """Return what was tuned for a bundle here; None where nothing was, or the file is damaged."""
    path = settings_file(bundle, providers)
    try:
        if path is None or path.stat().st_size > _BYTES:
            return None
        found = decode(Tuned, json.loads(path.read_text(encoding="utf-8")), path.name)
        SessionConfig(threads=found.threads, max_tokens=found.max_tokens)  # within the limits
    except (OSError, ValueError, RecursionError, InputError):
        return None
    return found


def write(bundle: Bundle, providers: Sequence[str], tuned: Tuned) -> Path:
    """Keep settings for a bundle, in one move.

    Raises:
        StageError: There is no cache folder, or it cannot be written.
    """
    path = settings_file(bundle, providers)
    if path is None:
        raise StageError("this user has no home for a cache; set LMONNX_CACHE to a folder")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(tuned)) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StageError(f"cannot write {path}: {error.strerror}; set LMONNX_CACHE") from error
    return path


def settings_file(bundle: Bundle, providers: Sequence[str]) -> Path | None:
    """Return where a bundle's settings for this host are kept; None without a cache."""
    folder = _cache()
    if folder is None:
        return None
    graphs = tuple(graph.file for graph in bundle.manifest.graphs.values())
    files = (bundle.manifest.files or {}).items()
    hashes = [info.sha256 for name, info in files if name.startswith(graphs)]
    parts = (*hashes, *providers, _cpu(), str(available_threads()), version())
    return folder / "tuned" / f"{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:32]}.json"


def _cache() -> Path | None:
    if stated := os.environ.get("LMONNX_CACHE"):
        return Path(stated)
    if stated := os.environ.get("XDG_CACHE_HOME"):
        return Path(stated) / "lmonnx"
    try:
        return Path.home() / ".cache" / "lmonnx"
    except RuntimeError:  # no home
        return None


def _cpu() -> str:
    """Return what tells kernels of one CPU from another's: model and features."""
    try:
        with _CPUINFO.open("rb") as file:
            lines = file.read(_FIRST).decode(errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "".join(x for x in lines if x.startswith(("model name", "flags", "Features")))
