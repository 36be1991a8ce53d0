"""The two graphs of an encoder-decoder, run over whole pairs and step by step.

Calibration and gate run them by themselves: they need the logits of every position, and values
inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Generation
from lmonnx.compiler.quantize.sources import start_ids
from lmonnx.errors import BundleError, StageError
from lmonnx.progress import Progress, track
from lmonnx.runtime.binding import Binding, BoundSession
from lmonnx.runtime.generate.pair_graphs import gives_flat
from lmonnx.runtime.session import Arrays, Session, SessionConfig

AT_ONCE = 16  # sources whose targets are written side by side

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
Choose = Callable[[Logits], Ids]


@dataclass(frozen=True, slots=True)
class Pair:
    """A source's ids, (S,), and those of a target, (T,): its start, its tokens, its end if any."""

    source: Ids
    target: Ids


class PairModel:
    """An encoder-decoder that reads pairs, and writes targets by a choice of tokens."""

    LISTED: ClassVar[bool] = False  # whether it is given shortlists

    def __init__(self, bundle: Bundle) -> None:
        generation = bundle.manifest.generation
        if generation is None or generation.seq2seq is None:
            raise BundleError(f"{bundle.path} is no encoder-decoder")
        if generation.seq2seq.shortlist is not None and not self.LISTED:
            raise StageError(
                f"{bundle.path} has a shortlist; give the bundle that it was made from"
            )
        self.generation = generation
        self._pad = bundle.manifest.text.source.pad_id
        encoder, decoder = (bundle.manifest.graphs[role] for role in ("encoder", "decoder"))
        config = SessionConfig()
        self._encoder = Session(bundle.file(encoder.file), encoder, config)
        self._decoder = BoundSession(bundle.file(decoder.file), decoder, config)
        self._is_flat = gives_flat(decoder)

    def logits(self, pair: Pair) -> Logits:
        """Return the logits of every position of a pair's target: (T, V)."""
        found: Logits = self._decoder.run(self.decoder_inputs(pair))["logits"]
        return found.reshape(-1, found.shape[-1])

    def encoder_inputs(self, pair: Pair) -> Arrays:
        """Return the encoder's inputs for one pair."""
        return _sources([pair.source], 0)

    def decoder_inputs(self, pair: Pair) -> Arrays:
        """Return the decoder's inputs for one pair's whole target, all logits kept."""
        length = len(pair.target)
        return {
            **self._encoder.run(self.encoder_inputs(pair)),
            **_cache(self.generation, 1, length),
            "input_ids": pair.target[None],
            "seqlens_k": np.array([length - 1], np.int32),
            "total_sequence_length": np.array(length, np.int32),
            "logits_to_keep": np.array(length, np.int64),
            "top_k": np.array(0, np.int64),
            "source_lengths": np.array([len(pair.source)], np.int32),
        }

    def write(
        self,
        sources: Sequence[Ids],
        choose: Choose,
        *,
        more: int,
        progress: Progress,
        what: str = "writing targets",
    ) -> list[Pair]:
        """Return each source with the target that the model writes, in the order of the sources.

        Args:
            sources: Ids, (S,) each.
            choose: Logits (rows, V) → a token for each row.
            more: Tokens that a target may have beyond twice the source's.
            progress: Told after every few sources.
            what: What to tell it.
        """
        order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
        groups = [order[start : start + AT_ONCE] for start in range(0, len(order), AT_ONCE)]
        found: dict[int, Pair] = {}
        for group in track(groups, what, progress):
            chosen = [sources[index] for index in group]
            most = [min(2 * len(ids) + more, self.generation.context) for ids in chosen]
            targets = self._write(chosen, choose, np.array(most))
            found |= {i: Pair(sources[i], ids) for i, ids in zip(group, targets, strict=True)}
        return [found[index] for index in range(len(sources))]

    def _write(self, sources: Sequence[Ids], choose: Choose, most: Ids) -> list[Ids]:
        """Return what the model writes, at most so many tokens for each source."""
        rows, length, first = len(sources), int(most.max()), start_ids(self.generation)
        ids = np.full((rows, length), self._pad, np.int64)
        ids[:, : len(first)] = first
        binding, inputs, logits = self._bound(sources, length)
        banned = _banned(self.generation)
        stops, ended = np.array(self.generation.stop_ids), np.zeros(rows, np.bool_)
        for place in range(length - 1):
            inputs["input_ids"][:, 0] = ids[:, place]
            inputs["seqlens_k"][:] = place
            inputs["total_sequence_length"][...] = place + 1
            binding.run()
            if place + 1 >= len(first):
                logits[:, banned] = -np.inf
                next_ids = choose(logits)
                ids[~ended, place + 1] = next_ids[~ended]
                ended |= np.isin(next_ids, stops) | (place + 2 >= most)
            if ended.all():
                break
        return [
            _until_stop(row[:limit], len(first), stops)
            for row, limit in zip(ids, most, strict=True)
        ]

    def _bound(
        self, sources: Sequence[Ids], length: int
    ) -> tuple[Binding, dict[str, NDArray[Any]], Logits]:
        """Return the decoder bound to a step of every source, its inputs and its logits."""
        rows, read = len(sources), _sources(sources, self._pad)
        held = _cache(self.generation, rows, length)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros((rows, 1), np.int64),
            "seqlens_k": np.zeros(rows, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
            "logits_to_keep": np.array(1, np.int64),
            "top_k": np.array(0, np.int64),
            "source_lengths": read["source_lengths"],
        }
        logits = np.empty((rows, self.generation.vocabulary), np.float32)
        written = {name.replace("past_key_values", "present"): held[name] for name in held}
        seen = self._encoder.run(read)
        bound = logits if self._is_flat else logits[:, None]
        binding = self._decoder.bind(inputs | held | seen, {"logits": bound} | written)
        return binding, inputs, logits


def greedy(logits: Logits) -> Ids:
    """Return the likeliest token of each row."""
    found: Ids = logits.argmax(axis=1)
    return found


def _banned(generation: Generation) -> list[int]:
    """Return the tokens that the checkpoint's settings forbid everywhere."""
    words = (generation.defaults or {}).get("bad_words_ids") or []
    return [int(ids[0]) for ids in words if len(ids) == 1]


def _until_stop(row: Ids, start: int, stops: Ids) -> Ids:
    ends = np.flatnonzero(np.isin(row[start:], stops))
    return row[: start + int(ends[0]) + 1] if len(ends) else row


def _sources(sources: Sequence[Ids], pad: int) -> dict[str, NDArray[Any]]:
    lengths = np.array([len(each) for each in sources], np.int32)
    ids = np.full((len(sources), int(lengths.max())), pad, np.int64)
    for row, each in zip(ids, sources, strict=True):
        row[: len(each)] = each
    return {"input_ids": ids, "source_lengths": lengths}


def _cache(generation: Generation, rows: int, length: int) -> dict[str, NDArray[Any]]:
    cache = generation.cache
    shape = (rows, cache.heads, length, cache.head_size)
    return {
        f"past_key_values.{layer}.{part}": np.zeros(shape, np.float32)
        for layer in range(cache.layers)
        for part in ("key", "value")
    }
