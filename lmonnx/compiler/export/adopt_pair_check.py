"""An encoder-decoder that was not built here is held to the graphs that it was made of.

Those are run as they are, one source and one answer at a time, nothing padded. The graphs that were
written read all sources at once, then answers of other lengths side by side, several a source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import CacheSpec, GraphSpec, Precision
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.adopt_branch import BRANCH_INPUT
from lmonnx.compiler.export.adopt_check import TOLERANCES, UNSET
from lmonnx.compiler.export.adopt_pair_encoder import HIDDEN, STATES
from lmonnx.compiler.export.adopt_pair_files import PairFiles
from lmonnx.compiler.graph import graph_spec, load_graph
from lmonnx.errors import BundleError, ParityError, UnsupportedError
from lmonnx.runtime.session import Session, SessionConfig

# Short sources and long ones: of few blocks and of many, where an encoder attends by blocks.
SOURCES, BEAMS, LENGTH, TOP = (1, 2, 5, 11, 23, 48), 2, 12, 3
_WAY_OUT = "take another variant or another export"

Arrays = dict[str, NDArray[Any]]
Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


class Adopted(Protocol):
    """What is known of graphs that were written."""

    @property
    def precision(self) -> Precision:
        """Return the narrowest type of their weights."""

    @property
    def cache(self) -> CacheSpec:
        """Return what the decoder reads and writes."""

    @property
    def vocabulary(self) -> int:
        """Return V."""

    @property
    def positions(self) -> int:
        """Return how many tokens a source may have."""

    @property
    def context(self) -> int:
        """Return how many tokens an answer may have."""


@dataclass(frozen=True, slots=True)
class Original:
    """The graphs as they were found."""

    checkpoint: Checkpoint
    files: PairFiles

    @property
    def pad(self) -> int:
        """Return the id that is no token of a text."""
        stated = self.checkpoint.config.get("pad_token_id")
        return stated if type(stated) is int else 0

    def logits(self, sources: list[Ids], answers: Ids) -> Logits:
        """Return the logits of answers (rows, T), several a source: (rows, T, V)."""
        encoder = _Graph(self.files.encoder)
        first = _Graph(self.files.first)
        later = first if self.files.first == self.files.later else _Graph(self.files.later)
        beams = len(answers) // len(sources)
        return np.stack(
            [
                self._answer(encoder, first, later, sources[row // beams], answer)
                for row, answer in enumerate(answers)
            ]
        )

    def _answer(
        self, encoder: _Graph, first: _Graph, later: _Graph, source: Ids, answer: Ids
    ) -> Logits:
        ids = source[None]
        mask = np.ones_like(ids)
        states = encoder.run({"input_ids": ids, "attention_mask": mask})[STATES]
        held: Arrays = {
            "encoder_attention_mask": mask, HIDDEN: states, BRANCH_INPUT: np.array([False]),
        }  # fmt: skip
        rows = []
        for place, token in enumerate(answer):
            step = later if place else first
            made = step.run({**held, "input_ids": np.array([[token]])})
            rows.append(made["logits"][0, -1])
            held |= _pasts(made)
            held[BRANCH_INPUT] = np.array([True])
        return np.stack(rows)


class _Graph:
    """A graph as it was found; a past that is not there yet is of no tokens."""

    def __init__(self, path: Path) -> None:
        model = load_graph(path)
        spec = graph_spec(model, path.name)
        self._session = Session(path, spec, SessionConfig())
        self._empty = {
            each.name: np.zeros((1, int(each.shape[1]), 0, int(each.shape[3])), np.float32)
            for each in spec.inputs
            if len(each.shape) == 4
        }

    def run(self, inputs: Arrays) -> Arrays:
        """Return all that the graph makes of those inputs that it takes."""
        given = self._empty | inputs
        return self._session.run({name: given[name] for name in self._session.inputs})


def _pasts(made: Arrays) -> Arrays:
    """Return what a call gives to the next; a later step gives no keys of the source."""
    return {
        name.replace("present", "past_key_values"): array
        for name, array in made.items()
        if name.startswith("present") and array.size
    }


def check_pair(
    original: Original, folder: Path, specs: Mapping[str, GraphSpec], adopted: Adopted
) -> float:
    """Return how far the logits of the graphs that were written are from the original's.

    Args:
        original: The graphs as they were found.
        folder: What the files of `specs` are in.
        specs: The graphs that were written, by role.
        adopted: Their sizes. All of the cache holds UNSET before.

    Raises:
        UnsupportedError: onnxruntime cannot run one of the graphs so.
        ParityError: They differ; share of the logits' range.
    """
    dice = np.random.default_rng(0)
    lengths, most = np.minimum(SOURCES, adopted.positions), min(LENGTH, adopted.context)
    words = np.setdiff1d(np.arange(adopted.vocabulary), [original.pad])
    sources = [dice.choice(words, length) for length in lengths]
    answers = dice.choice(words, (len(SOURCES) * BEAMS, most))
    answers[-1, most // 2] = original.pad  # which M2M100 counts in steps, but not at once
    try:
        wanted = original.logits(sources, answers)
        written = _Written(folder, specs, adopted, sources)
        found = written.ragged(answers), written.at_once(answers)
    except BundleError as error:
        raise UnsupportedError(f"the graphs do not run: {error}; {_WAY_OUT}") from error
    spread = float(np.ptp(wanted)) or 1.0
    steps, whole = found[0] - wanted, (found[1] - wanted)[:-1]
    difference = max(float(np.abs(steps).max()), float(np.nanmax(np.abs(whole)))) / spread
    if not difference <= TOLERANCES[adopted.precision]:
        raise ParityError(
            f"the rewritten graphs' logits are {difference:.1e} of their range from those of "
            f"{original.files.encoder.name} and {original.files.later.name} of one source without "
            f"padding, so answers would depend on what else is in a batch; {_WAY_OUT}"
        )
    return difference


class _Written:
    """The graphs of decision 13, with some sources read."""

    def __init__(
        self, folder: Path, specs: Mapping[str, GraphSpec], adopted: Adopted, sources: list[Ids]
    ) -> None:
        encoder, self._decoder = (
            Session(folder / specs[role].file, specs[role], SessionConfig())
            for role in ("encoder", "decoder")
        )
        self._adopted = adopted
        self._lengths = np.array([len(source) for source in sources], np.int32)
        ids = np.zeros((len(sources), self._lengths.max()), np.int64)
        for row, source in zip(ids, sources, strict=True):
            row[: len(source)] = source
        self._keys = encoder.run({"input_ids": ids, "source_lengths": self._lengths})

    def ragged(self, answers: Ids) -> Logits:
        """Return the logits of answers that start at other times: (rows, T, V)."""
        rows, length = answers.shape
        found = np.full((rows, length, self._adopted.vocabulary), np.nan, np.float32)
        held = self._cache(rows, length)
        lengths = np.zeros(rows, np.int64)
        ahead = np.arange(rows) * (length - 1) // rows  # tokens that a row has had by itself
        while lengths.min() < length:
            # Who waits, or has come to its end, says its token again: the batch stays whole.
            at = np.arange(rows), np.minimum(lengths, length - 1)
            logits, held = self._call(answers[at][:, None], at[1] + 1, held, 1)
            behind = lengths < ahead
            moved = behind if behind.any() else lengths < length
            found[at[0][moved], at[1][moved]] = logits[moved, 0]
            lengths += moved
        return found

    def at_once(self, answers: Ids) -> Logits:
        """Return the logits of answers with no past, some of them shorter: (rows, T, V).

        What a row has not said is NaN.
        """
        rows, length = answers.shape
        said = np.maximum(length - np.arange(rows) % 3, 1)
        logits, _ = self._call(answers, said, self._cache(rows, length), length)
        missing = np.arange(length) >= said[:, None]
        return np.where(missing[..., None], np.float32(np.nan), logits)

    def _cache(self, rows: int, length: int) -> Arrays:
        cache = self._adopted.cache
        shape = (rows, cache.heads, length, cache.head_size)
        names = [f"{i}.{kind}" for i in range(cache.layers) for kind in ("key", "value")]
        return {f"past_key_values.{name}": np.full(shape, UNSET, np.float32) for name in names}

    def _call(self, tokens: Ids, after: Ids, held: Arrays, kept: int) -> tuple[Logits, Arrays]:
        """Run tokens (rows, Q), `after` which a row has so many; return logits and cache."""
        made = self._decoder.run(
            {
                **self._keys,
                **held,
                "input_ids": tokens,
                "seqlens_k": (after - 1).astype(np.int32),
                "total_sequence_length": np.array(after.max(), np.int32),
                "logits_to_keep": np.array(kept, np.int64),
                "top_k": np.array(TOP, np.int64),
                "source_lengths": self._lengths,
            }
        )
        logits = made["logits"].reshape(len(tokens), kept, -1)
        _check_ranks(logits.reshape(-1, logits.shape[2]), made["top_ids"])
        pasts = {name: made[name.replace("past_key_values", "present")] for name in held}
        return logits, pasts


def _check_ranks(logits: Logits, top_ids: Ids) -> None:
    ids = top_ids.reshape(len(logits), -1)
    best = np.sort(logits, axis=1)[:, ::-1][:, : ids.shape[1]]
    if (np.take_along_axis(logits, ids, axis=1) != best).any():
        raise ParityError(f"the rewritten decoder ranks other tokens than are best; {_WAY_OUT}")
