"""Sources in, their keys and values out; tokens in, scores out: the two graphs of decision 13."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_not

import numpy as np

from lmonnx.runtime.binding import Binding, BoundSession
from lmonnx.runtime.generate.kv_cache import KVCache
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.generate.shortlist import (
    ALL_COLUMNS,
    INPUTS,
    BatchList,
    Columns,
    Listed,
    Shortlist,
)
from lmonnx.runtime.generate.source_keys import SourceKeys, Sources
from lmonnx.runtime.numerics import Floats
from lmonnx.runtime.session import MAX_TOKENS, Session

_ONE = np.ones((), np.int64)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a step gives for each row: `logits` (R, V), and if asked for the k best tokens.

    `top_logprobs` and `top_ids` are (R, k), best first, of a tie the lower id. With a shortlist the
    logits are (R, N), and `columns` says of what. All are good until the next step.
    """

    logits: Floats
    top_logprobs: Floats
    top_ids: Ids
    columns: Columns = field(default=ALL_COLUMNS)


class EncoderDecoder:
    """A bundle's two graphs, and the cache of the decoder's own tokens; for one thread at a time.

    Row r of the cache is a beam of source r // n, where n is the number of beams of all sources.
    """

    def __init__(
        self,
        encoder: Session,
        decoder: BoundSession,
        cache: KVCache,
        *,
        sources: int,
        vocabulary: int,
        pad: int,
        max_tokens: int = MAX_TOKENS,
        is_flat: bool = False,
        shortlist: Shortlist | None = None,
    ) -> None:
        """Decode with two sessions.

        Args:
            encoder: Of the encoder's graph.
            decoder: Of the decoder's.
            cache: A slot a row.
            sources: At most so many at once.
            vocabulary: V.
            pad: The id that fills sources up.
            max_tokens: Of the sources that are encoded at once, padding included.
            is_flat: Whether the decoder gives logits (N, V), not (rows, R, V).
            shortlist: The bundle's, if it has one.
        """
        self._encoder, self._decoder = encoder, decoder
        self._pad, self._max_tokens = pad, max_tokens
        self._outputs = [f"cross_key_values.{name}" for name in cache.names]
        self.cache, self.sources = cache, SourceKeys(cache.spec, sources)
        self.vocabulary, self._is_flat = vocabulary, is_flat
        # Every step's: fresh memory of that size would be zeroed by the system at each of them.
        self._logits = np.empty((cache.slots, vocabulary), np.float32)
        self._list = None if shortlist is None else BatchList(shortlist, sources)
        self._calls: dict[tuple[int, ...], _Call] = {}  # good as long as nothing is laid out anew
        self._layout: tuple[object, ...] = ()

    def read(
        self, sources: Sequence[Sequence[int]], *, stop_ids: Sequence[int] = (), top: int = 0
    ) -> Sources:
        """Take in sources, which are best of like length, and return them alone.

        Args:
            sources: Their tokens.
            stop_ids: What may end any of those that are held.
            top: How many of the best tokens of theirs will be ranked.
        """
        start = len(self.sources.held)
        if self._list is not None:
            self._list.add(sources, shared=stop_ids, least=top)
        for part in _parts(sources, self._max_tokens):
            self._encode(part)
        return self.sources.since(start)

    def step(
        self, tokens: Ids, lengths: Ids, sources: Sources, top: int, *, first: int = 0
    ) -> Scores:
        """Run one token of each of R rows, from the row `first` on.

        Args:
            tokens: (R,), the last known token of each.
            lengths: (R,), how many tokens of each are in the cache already.
            sources: What they decode, R / n of them: all that are held, or the last.
            top: How many of the best tokens to rank; 0 for none.
            first: Where the rows start.
        """
        rows = range(first, first + len(tokens))
        moved = self.cache.make_room(int(lengths.max()) + 1, rows.stop)
        layout = self.sources.room, None if self._list is None else self._list.ids
        if moved or any(map(is_not, layout, self._layout)):
            self._calls.clear()
        self._layout = layout
        start = len(self.sources.held) - len(sources)
        place = first, len(rows), start, len(sources), top
        call = self._calls.get(place)
        if call is None:
            call = self._calls[place] = _Call(
                self._decoder,
                self.cache,
                self._logits,
                sources,
                rows=rows,
                top=top,
                listed=self._listed(start, len(sources)),
                is_flat=self._is_flat,
            )
        return call.run(tokens, lengths)

    def keep(self, origins: Sequence[int], places: Sequence[int], count: int) -> None:
        """Put some sources in the place of others, and let go of all from `count` on."""
        self.sources.keep(origins, places, count)
        if self._list is not None:
            self._list.keep(origins, places, count)

    def clear(self) -> None:
        """Forget every row and its source."""
        self._calls.clear()
        self._layout = ()
        if self._list is not None:
            self._list.clear()
        self.cache.clear()
        self.sources.clear()

    def _listed(self, start: int, count: int) -> tuple[Listed, Columns] | None:
        """Return the list of a step for some sources."""
        if self._list is None:
            return None
        return self._list.part(start, count), self._list.columns()

    def _encode(self, sources: Sequence[Sequence[int]]) -> None:
        lengths = np.array([len(source) for source in sources], np.int32)
        ids = np.full((len(sources), lengths.max()), self._pad, np.int64)
        for row, source in zip(ids, sources, strict=True):
            row[: len(source)] = source
        outputs = self._encoder.run({"input_ids": ids, "source_lengths": lengths})
        self.sources.add([outputs[name] for name in self._outputs], lengths)


class _Call:
    """The decoder's graph bound to some rows of the cache and to their sources."""

    def __init__(
        self,
        session: BoundSession,
        cache: KVCache,
        logits: Floats,
        sources: Sources,
        *,
        rows: range,
        top: int,
        listed: tuple[Listed, Columns] | None,
        is_flat: bool,
    ) -> None:
        count = len(rows)
        self._ids = np.zeros((count, 1), np.int64)
        self._lengths = np.zeros(count, np.int32)
        self._longest = np.zeros((), np.int32)
        logprobs, best = np.empty((count, top), np.float32), np.empty((count, top), np.int64)
        columns, inputs = ALL_COLUMNS, dict[str, Floats | Ids]()
        if listed is not None:
            (part, columns), width = listed, len(listed[0].ids)
            inputs = dict(zip(INPUTS, (part.ids, part.bias), strict=True))
            logits = logits.reshape(-1)[: count * width].reshape(count, width)
        self._scores = Scores(logits[:count], logprobs, best, columns)
        own = cache.view(rows.start, count)
        given: dict[str, Floats | Ids] = {"logits": logits[:count]}
        if top:
            given |= {"top_logprobs": logprobs, "top_ids": best}
        if not is_flat:
            given = {name: array[:, None] for name, array in given.items()}
        self._binding: Binding = session.bind(
            {
                "input_ids": self._ids,
                "seqlens_k": self._lengths,
                "total_sequence_length": self._longest,
                "logits_to_keep": _ONE,
                "top_k": np.array(top, np.int64),
                "source_lengths": sources.lengths,
                **inputs,
                **{f"past_key_values.{n}": a for n, a in own.items()},
                **{f"cross_key_values.{n}": a for n, a in zip(own, sources.arrays, strict=True)},
            },
            given | {f"present.{n}": a for n, a in own.items()},
        )

    def run(self, tokens: Ids, lengths: Ids) -> Scores:
        self._ids[:, 0] = tokens
        self._lengths[:] = lengths
        self._longest[()] = lengths.max() + 1
        self._binding.run()
        return self._scores


def _parts(sources: Sequence[Sequence[int]], most: int) -> Iterator[Sequence[Sequence[int]]]:
    """Yield runs of sources in their order, each of at most so many tokens, or of one source."""
    start = longest = 0
    for place, source in enumerate(sources):
        longest = max(longest, len(source))
        if place > start and (place + 1 - start) * longest > most:
            yield sources[start:place]
            start, longest = place, len(source)
    yield sources[start:]
