"""A bundle and texts → how long loading and answering take, and how much memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Task
from lmonnx.errors import InputError
from lmonnx.measure.sentences import LABELS, fit, hypotheses
from lmonnx.progress import Progress, silent, track
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines import PIPELINES
from lmonnx.runtime.pipelines.base import Pipeline
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tokenizer import Text

_LATENCIES = (100, 500)  # calls timed alone: fewer say nothing of p99, more only take time
_STATUS = Path("/proc/self/status")

Ask = Callable[[list[Text]], Any]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one bundle answers `texts` texts of `tokens` tokens on this machine.

    `load_ms` is from the folder to a model, hashes included. `p50_ms` … `p99_ms` are of one text
    a call, without warm-up. `texts_per_s` and `tokens_per_s` are of the fastest of `rounds` calls
    with the whole list. `peak_mib` is this process's own, imports included; None where the
    system does not say.
    """

    texts: int
    tokens: int
    threads: int
    rounds: int
    load_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    texts_per_s: float
    tokens_per_s: float
    peak_mib: float | None


def bench(
    path: Path,
    texts: Sequence[Text],
    *,
    rounds: int = 5,
    threads: int | None = None,
    providers: Sequence[str] = (CPU,),
    progress: Progress = silent,
) -> Speed:
    """Load a bundle and time it through the whole pipeline, strings in and answers out.

    Args:
        path: The bundle's folder.
        texts: What to answer; latency takes 100 to 500 of them in turn. Plain texts are made
            to fit the task, and zero-shot is asked about five labels.
        rounds: Calls with the whole list, at least 1, after one that is not counted.
        threads: Threads a call may use; None takes what the cgroup's quota allows.
        providers: onnxruntime's execution providers.
        progress: Told after each round.

    Raises:
        InputError: There are no texts, or rounds is below 1.
    """
    if not texts or rounds < 1:
        raise InputError(f"{len(texts)} texts in {rounds} rounds; give at least one of each")
    texts = list(texts)  # a tuple of two would be a pair
    start = perf_counter()
    model = load(path, threads=threads, providers=providers)
    opened = perf_counter() - start
    texts = fit(texts, model.bundle.manifest)
    ask = partial(_ASKS.get(model.bundle.manifest.task, _whole), model)
    ask(texts)  # warm-up: memory arenas grow, lazy kernels load
    latencies = _latencies(ask, texts)
    fastest = min(_seconds(ask, texts) for _ in track(range(rounds), "bench", progress))
    tokens = model.tokenizer.count(_counted(model, texts))
    return Speed(
        texts=len(texts),
        tokens=tokens,
        threads=model.config.threads_used,
        rounds=rounds,
        load_ms=opened * 1000,
        **_percentiles_ms(latencies),
        texts_per_s=len(texts) / fastest,
        tokens_per_s=tokens / fastest,
        peak_mib=peak_mib(),
    )


def load_ms(bundle: Bundle, *, rounds: int = 3) -> float:
    """Return the fastest of `rounds` loads of an open bundle, in ms: tokenizer and session."""
    pipeline = PIPELINES[bundle.manifest.task]
    times = []
    for _ in range(rounds):
        start = perf_counter()
        pipeline(bundle)
        times.append((perf_counter() - start) * 1000)
    return min(times)


def peak_mib(status: Path = _STATUS) -> float | None:
    """Return the most memory this process has held, in MiB; None where the system has no figure.

    Args:
        status: Linux's file of this process. getrusage's ru_maxrss is asked only where there is
            none: on Linux it starts at what the parent process held.
    """
    try:
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _whole(model: Any, texts: list[Text]) -> Any:
    return model(texts)


def _rank(model: Any, texts: list[Any]) -> Any:
    return model(texts[0][0], [document for _, document in texts])


def _choose(model: Any, texts: list[Any]) -> Any:
    return model([premise for premise, _ in texts], LABELS)


_ASKS: Mapping[Task, Callable[[Any, list[Text]], Any]] = {
    Task.TEXT_RANKING: _rank,
    Task.ZERO_SHOT_CLASSIFICATION: _choose,
}


def _counted(model: Pipeline[Any], texts: list[Any]) -> list[Text]:
    """Return what one call reads: zero-shot a text once a label, ranking one query throughout."""
    task = model.bundle.manifest.task
    if task is Task.ZERO_SHOT_CLASSIFICATION:
        return [(premise, supposed) for premise, _ in texts for supposed in hypotheses()]
    if task is Task.TEXT_RANKING:
        return [(texts[0][0], document) for _, document in texts]
    return texts


def _latencies(ask: Ask, texts: list[Text]) -> list[float]:
    fewest, most = _LATENCIES
    calls = min(max(len(texts), fewest), most)
    places = np.arange(calls)
    if len(texts) > most:  # spread over the list, which may be sorted
        places = places * len(texts) // calls
    return [_seconds(ask, [texts[place % len(texts)]]) for place in places]


def _percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{q}_ms": float(np.percentile(seconds, q)) * 1000 for q in (50, 95, 99)}


def _seconds(ask: Ask, texts: list[Text]) -> float:
    start = perf_counter()
    ask(texts)
    return perf_counter() - start
