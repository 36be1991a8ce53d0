"""A decoder's bundle → threads for it here, and how many sequences its lone graph is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.measure.tune import GAIN, thread_counts
from lmonnx.progress import Progress, silent, track
from lmonnx.runtime import tuned
from lmonnx.runtime.generate.capacity import Capacity, make_cache
from lmonnx.runtime.generate.decoder import (
    LONE,
    MODEL,
    PROMPT,
    Decoder,
    check_cache,
    open_sessions,
)
from lmonnx.runtime.session import CPU, SessionConfig
from lmonnx.runtime.tuned import TunedDecoder, default_lone_rows

ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
PROMPT_TOKENS = 128  # tokens that are read at once, and that every sequence holds while it is timed
_NO_LIMIT = 2**50  # bytes of the cache; 16 sequences of 256 tokens are few
_ROUNDS, _STEPS = 3, 5


@dataclass(frozen=True, slots=True)
class Step:
    """The best time of a step by one graph: `rows` sequences' tokens, or a prompt of one."""

    threads: int
    graph: str
    rows: int
    ms: float


@dataclass(frozen=True, slots=True)
class DecoderTuning:
    """The settings kept in `file`, every step timed, and how much faster than the defaults.

    `gain` is the geometric mean over steps of each size.
    """

    settings: TunedDecoder
    gain: float
    steps: tuple[Step, ...]
    file: str


def tune_decoder(
    path: Path, *, providers: Sequence[str] = (CPU,), progress: Progress = silent
) -> DecoderTuning:
    """Time steps of 1 to 16 sequences with several thread counts, and keep the best in the cache.

    `load` uses what is kept. A graph for few sequences is taken for one to so many as make all
    steps together fastest; a draft is verified by the graph that decodes one sequence.

    Args:
        path: The bundle's folder.
        providers: onnxruntime's execution providers.
        progress: Told after every session.

    Raises:
        BundleError: It is no decoder.
        StageError: The cache cannot be written.
    """
    bundle = Bundle.open(path)
    times = _timed(bundle, providers, progress)
    most = SessionConfig(tuple(providers)).threads_used
    default = TunedDecoder(most, default_lone_rows() if _has_lone(bundle) else None)
    choices = [
        TunedDecoder(threads, lone)
        for threads in thread_counts(most)
        for lone in ((0, *ROWS) if _has_lone(bundle) else (None,))
    ]
    costs = {each: _cost(each, times) for each in (default, *choices)}
    best = min(choices, key=costs.__getitem__)
    if costs[default] <= np.log(GAIN) + costs[best]:  # noise may have chosen it
        best = default
    return DecoderTuning(
        best,
        float(np.exp(costs[default] - costs[best])),
        tuple(Step(*key, 1000 * seconds) for key, seconds in times.items()),
        str(tuned.write(bundle, providers, best)),
    )


Times = Mapping[tuple[int, str, int], float]  # seconds by threads, graph, rows


def _has_lone(bundle: Bundle) -> bool:
    return LONE in bundle.manifest.graphs


def _cost(settings: TunedDecoder, times: Times) -> float:
    """Return the mean of log seconds over steps of each size, so that each counts alike."""
    lone = settings.lone_rows or 0
    roles = {rows: LONE if rows <= lone else MODEL for rows in ROWS}
    reads = settings.threads, PROMPT, PROMPT_TOKENS
    roles[PROMPT_TOKENS] = PROMPT if reads in times else MODEL
    spent = [times[settings.threads, role, rows] for rows, role in roles.items()]
    return float(np.mean(np.log(spent)))


def _timed(bundle: Bundle, providers: Sequence[str], progress: Progress) -> Times:
    """Return the best time of every step: rounds in turn, so that noise hits all alike.

    One session at a time is alive: spinning threads of another would take its cores.
    """
    best: dict[tuple[int, str, int], float] = {}
    config = SessionConfig(tuple(providers))
    kinds = [
        (threads, role)
        for _ in range(_ROUNDS)
        for threads in thread_counts(config.threads_used)
        for role in (MODEL, LONE, PROMPT)
        if role in bundle.manifest.graphs
    ]
    for threads, role in track(kinds, "tuning", progress):
        with _alone(bundle, replace(config, threads=threads), role) as decoder:
            for rows, seconds in _steps(decoder, () if role == PROMPT else ROWS):
                key = threads, role, rows
                best[key] = min(best.get(key, seconds), seconds)
    return best


@contextmanager
def _alone(bundle: Bundle, config: SessionConfig, role: str) -> Iterator[Decoder]:
    """Load one graph as the only one of its bundle."""
    generation = check_cache(bundle)
    graphs = {MODEL: bundle.manifest.graphs[role]}
    single = replace(bundle, manifest=replace(bundle.manifest, graphs=graphs))
    context = min(generation.context, 2 * PROMPT_TOKENS)
    cache = make_cache(generation, Capacity(context, max(ROWS), _NO_LIMIT))
    sessions = open_sessions(single, config)
    yield Decoder(sessions, cache, vocabulary=generation.vocabulary)
    sessions.clear()


def _steps(decoder: Decoder, sizes: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Yield the sizes of steps, that of a prompt first, with the best seconds of one."""
    held = min(PROMPT_TOKENS, decoder.cache.length - 1)
    tokens = [token % decoder.vocabulary for token in range(held)]

    def read() -> None:
        decoder.extend(0, tokens, 0, keep=1, company=None)

    yield PROMPT_TOKENS, _best(read)
    for rows in sizes:
        yield rows, _best(partial(decoder.step, tokens[:1] * rows, [held] * rows))


def _best(run: Callable[[], object]) -> float:
    run()  # arenas grow, lazy kernels load
    spent = []
    for _ in range(_STEPS):
        start = perf_counter()
        run()
        spent.append(perf_counter() - start)
    return min(spent)
