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
# Up to so many sequences a decoder's 4-bit graph wins over the one in int8 by rows, which needs
# sums of four products in one instruction less (docs/decisions/0012).
LONE_ROWS, LONE_ROWS_WITH_DOTS = 3, 4
_DOTS = frozenset({"avx512_vnni", "avx_vnni"})


@dataclass(frozen=True, slots=True)
class Tuned:
    """The fastest way that was found to run one bundle on this host."""

    threads: int
    max_tokens: int
    wide_int8: bool
    thread_per_batch: bool


@dataclass(frozen=True, slots=True)
class TunedDecoder:
    """The same of a decoder; `lone_rows` is None where it has one graph."""

    threads: int
    lone_rows: int | None


def choose(
    bundle: Bundle, providers: Sequence[str], threads: int | None, max_tokens: int | None
) -> SessionConfig:
    """Return how to run a bundle: what is asked, else what was tuned, else the defaults."""
    tuned = read(bundle, providers)
    if tuned is None:
        return SessionConfig(tuple(providers), threads, max_tokens)
    if isinstance(tuned, TunedDecoder):
        used = tuned.threads if threads is None else threads
        return SessionConfig(tuple(providers), used, max_tokens, lone_rows=tuned.lone_rows)
    return SessionConfig(
        tuple(providers),
        tuned.threads if threads is None else threads,
        tuned.max_tokens if max_tokens is None else max_tokens,
        wide_int8=tuned.wide_int8,
        thread_per_batch=tuned.thread_per_batch,
    )


def default_lone_rows() -> int:
    """Return up to how many sequences a decoder's graph for few is taken on this CPU, untuned."""
    return LONE_ROWS if _DOTS.isdisjoint(_cpu().split()) else LONE_ROWS_WITH_DOTS


def read(bundle: Bundle, providers: Sequence[str]) -> Tuned | TunedDecoder | None:
    """Return what was tuned for a bundle here; None where nothing was, or the file is damaged."""
    path = settings_file(bundle, providers)
    try:
        if path is None or path.stat().st_size > _BYTES:
            return None
        kind: type[Tuned | TunedDecoder] = (
            Tuned if bundle.manifest.generation is None else TunedDecoder
        )
        found = decode(kind, json.loads(path.read_text(encoding="utf-8")), path.name)
        SessionConfig(**asdict(found))  # within the limits
    except (OSError, ValueError, RecursionError, InputError):
        return None
    return found


def write(bundle: Bundle, providers: Sequence[str], tuned: Tuned | TunedDecoder) -> Path:
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
