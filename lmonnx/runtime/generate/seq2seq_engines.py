"""A bundle's engines: one of all threads, and one a thread for requests of many sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import InputError
from lmonnx.runtime.binding import BoundSession
from lmonnx.runtime.generate.capacity import SOURCES, Capacity, make_row_cache
from lmonnx.runtime.generate.encoder_decoder import EncoderDecoder
from lmonnx.runtime.generate.pair_graphs import DECODER, check_pair, gives_flat, open_pair
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.seq2seq_engine import Seq2SeqEngine
from lmonnx.runtime.generate.shortlist import open_shortlist
from lmonnx.runtime.generate.source_job import Finished, Manner, SourceJob
from lmonnx.runtime.session import MAX_TOKENS, MAX_TOKENS_OF_A_THREAD, Session, SessionConfig

# Requests of so many rows a thread are divided among the engines of one thread.
BULK_ROWS = 4


class Seq2SeqEngines:
    """Sources → tokens; any number of threads may call."""

    def __init__(self, bundle: Bundle, config: SessionConfig, *, capacity: Capacity) -> None:
        """Load a bundle's graphs.

        Args:
            bundle: An encoder-decoder.
            config: How to run its graphs.
            capacity: How large an engine's cache may be.

        Raises:
            BundleError: It is no encoder-decoder, or is damaged.
            InputError: The cache does not fit.
        """
        self._bundle, self._config, self._capacity = bundle, config, capacity
        self.generation = check_pair(bundle)
        self._shortlist = open_shortlist(bundle)
        self.source_positions = bundle.manifest.text.max_length
        self._whole = self._engine(*open_pair(bundle, config), max_tokens=MAX_TOKENS)
        self.context, self.slots = self._room
        self._lock = Lock()
        self._pair: tuple[Session, BoundSession] | None = None
        self._singles: list[Seq2SeqEngine] = []

    def run(
        self, sources: Sequence[Sequence[int]], params: SamplingParams, *, start_id: int
    ) -> list[list[Finished]]:
        """Decode sources; return the n answers of each, in the order of the sources.

        Raises:
            InputError: A source or an option is wrong, or does not fit.
        """
        samples = 1 if params.num_beams > 1 else params.n
        manner = self._manner(params, start_id)
        jobs = [
            SourceJob(source, manner, index=index) for source in sources for index in range(samples)
        ]
        for job in jobs:
            self._whole.check(job)
        # Longest first: sources of like length pad little.
        order = sorted(range(len(jobs)), key=lambda place: -len(jobs[place].source))
        engines = self._engines(len(jobs) * params.num_beams)
        shares = [[jobs[place] for place in order[i :: len(engines)]] for i in range(len(engines))]
        try:
            if len(engines) == 1:
                _run(engines[0], shares[0])
            else:
                with ThreadPoolExecutor(len(engines)) as pool:
                    list(pool.map(_run, engines, shares))
        finally:
            for job in jobs:
                job.is_cancelled = True
        results = iter(jobs)
        return [[found for _ in range(samples) for found in next(results).results] for _ in sources]

    def stream(
        self, source: Sequence[int], params: SamplingParams, *, start_id: int
    ) -> Iterator[int]:
        """Yield one answer's tokens as they come.

        Raises:
            InputError: As for `run`, at once; or there would be several answers.
        """
        if max(params.n, params.num_beams) > 1:
            raise InputError("a stream is of one answer: leave n and num_beams at 1")
        job = SourceJob(source, self._manner(params, start_id))
        self._whole.check(job)
        return self._whole.chunks(job)

    def close(self) -> None:
        """End every request with an error; the model cannot be used again."""
        for engine in (self._whole, *self._singles):
            engine.close()

    def _manner(self, params: SamplingParams, start_id: int) -> Manner:
        generation = self.generation
        return Manner(
            params,
            start_id=start_id,
            stop_ids=generation.stop_ids,
            vocabulary=generation.vocabulary,
        )

    def _engines(self, rows: int) -> list[Seq2SeqEngine]:
        """Return the engines for a request of so many rows."""
        config, threads = self._config, self._config.threads_used
        size = sum(file.bytes for file in (self._bundle.manifest.files or {}).values())
        if rows < BULK_ROWS * threads or not config.runs_side_by_side(size):
            return [self._whole]
        with self._lock:
            while len(self._singles) < threads:
                # Threads run one session, each for itself: the weights are there once.
                self._pair = self._pair or open_pair(self._bundle, replace(config, threads=1))
                made = self._engine(*self._pair, max_tokens=MAX_TOKENS_OF_A_THREAD)
                self._singles.append(made)
        return self._singles

    def _engine(self, encoder: Session, decoder: BoundSession, *, max_tokens: int) -> Seq2SeqEngine:
        cache = make_row_cache(self.generation, self._capacity)
        self._room = cache.length, cache.slots
        model = EncoderDecoder(
            encoder,
            decoder,
            cache,
            sources=self._capacity.slots or SOURCES,
            vocabulary=self.generation.vocabulary,
            pad=self._bundle.manifest.text.source.pad_id,
            max_tokens=max_tokens,
            is_flat=gives_flat(self._bundle.manifest.graphs[DECODER]),
            shortlist=self._shortlist,
        )
        return Seq2SeqEngine(model, positions=self.source_positions)


def _run(engine: Seq2SeqEngine, jobs: Sequence[SourceJob]) -> None:
    for job in jobs:
        engine.submit(job)
    for job in jobs:
        engine.wait(job)
