"""A bundle and texts → the fastest settings to run it with on this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import InputError
from lmonnx.progress import Progress, silent
from lmonnx.runtime import tuned
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.pipelines import PIPELINES
from lmonnx.runtime.pipelines.base import Outputs, Pipeline
from lmonnx.runtime.session import CPU, MAX_TOKENS, MAX_TOKENS_OF_A_THREAD, SessionConfig
from lmonnx.runtime.tokenizer import Text
from lmonnx.runtime.tuned import Tuned

BUDGETS = (256, 512, 1024, 2048, 4096)
BUDGETS_OF_A_THREAD = (128, 256, 512)
# Timings of one and the same setting differ by some hundredths: a default is left for more.
GAIN = 1.03
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting, and how many texts a second it answers (the best of three rounds)."""

    settings: Tuned
    texts_per_s: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """The settings kept in `file`, all that were tried, and how much faster than the defaults."""

    settings: Tuned
    gain: float
    trials: tuple[Trial, ...]
    file: str


def tune(
    path: Path,
    texts: Sequence[Text],
    *,
    providers: Sequence[str] = (CPU,),
    progress: Progress = silent,
) -> Tuning:
    """Measure how to batch, then threads, then int8 kernels, and keep the fastest in the cache.

    `load` uses what is kept, unless told otherwise. It is for texts like these: the best budget
    depends on their lengths.

    Args:
        path: The bundle's folder.
        texts: What is answered again and again.
        providers: onnxruntime's execution providers.
        progress: Told after every setting.

    Raises:
        InputError: There are no texts.
        StageError: The cache cannot be written.
    """
    if not texts:
        raise InputError("there are no texts to tune with; give at least one")
    bundle = Bundle.open(path)
    default = _default(bundle, providers)
    trials: dict[Tuned, float] = {}
    best = default
    for ways in _ways(bundle, default.threads):
        candidates = [best, *(c for c in (replace(best, **way) for way in ways) if c != best)]
        rates = _race(bundle, candidates, texts, providers)
        trials |= rates
        fastest = max(rates, key=rates.__getitem__)
        best = fastest if rates[fastest] > GAIN * rates[best] else best
        progress("tuning", len(trials), len(trials))
    rates = _race(bundle, [default, best], texts, providers)
    if rates[best] < rates[default]:  # noise had chosen it
        best = default
    file = tuned.write(bundle, providers, best)
    return Tuning(
        best,
        rates[best] / rates[default],
        tuple(Trial(settings, rate) for settings, rate in trials.items()),
        str(file),
    )


def thread_counts(most: int) -> list[int]:
    """Return how many threads are tried where there are so many at most."""
    return sorted({most, max(1, most // 2), 1}, reverse=True)


def _default(bundle: Bundle, providers: Sequence[str]) -> Tuned:
    config = SessionConfig(tuple(providers))
    apart = config.runs_side_by_side(bundle.bytes)
    return Tuned(
        config.threads_used,
        MAX_TOKENS_OF_A_THREAD if apart else MAX_TOKENS,
        wide_int8=False,
        thread_per_batch=apart,
    )


def _ways(bundle: Bundle, most: int) -> list[list[dict[str, Any]]]:
    """Return what is tried, one field at a time: the other fields are the best so far."""
    threads = thread_counts(most)
    batching = [{"max_tokens": budget, "thread_per_batch": False} for budget in BUDGETS]
    ways: list[list[dict[str, Any]]] = [batching]
    if len(threads) > 1:
        batching += [
            {"max_tokens": budget, "thread_per_batch": True} for budget in BUDGETS_OF_A_THREAD
        ]
        ways.append([{"threads": count} for count in threads])
    if "MatMulIntegerToFloat" in bundle.manifest.graphs["model"].operators:
        ways.append([{"wide_int8": wide} for wide in (False, True)])
    return ways


def _race(
    bundle: Bundle, candidates: Sequence[Tuned], texts: Sequence[Text], providers: Sequence[str]
) -> dict[Tuned, float]:
    """Return texts a second of each candidate: rounds in turn, so that noise hits all alike.

    One session at a time is alive: spinning threads of another would take its cores.
    """
    best = dict.fromkeys(candidates, float("inf"))
    kinds = {_kind(c): [d for d in candidates if _kind(d) == _kind(c)] for c in best}
    for _ in range(_ROUNDS):
        for kind, members in kinds.items():
            config = replace(kind, providers=tuple(providers))
            model = PIPELINES[bundle.manifest.task](bundle, config)
            _run(model, texts)  # arenas grow, lazy kernels load
            for settings in members:
                model.config = replace(config, max_tokens=settings.max_tokens)
                start = perf_counter()
                _run(model, texts)
                best[settings] = min(best[settings], perf_counter() - start)
    return {settings: len(texts) / seconds for settings, seconds in best.items()}


def _kind(settings: Tuned) -> SessionConfig:
    return SessionConfig(
        threads=settings.threads,
        wide_int8=settings.wide_int8,
        thread_per_batch=settings.thread_per_batch,
    )


def _run(model: Pipeline[Any], texts: Sequence[Text]) -> None:
    def drop(_: Outputs, batch: Batch) -> list[None]:
        return [None] * len(batch.places)

    for _ in model.windows(texts, reduce=drop):
        pass
