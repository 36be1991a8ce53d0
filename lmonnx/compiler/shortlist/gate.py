"""What a list loses: of the references, of the input bundle's choices, of the task's figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Parity
from lmonnx.compiler.quantize.gate import Gate, open_gate
from lmonnx.compiler.quantize.pairs import Logits, Pair, PairModel
from lmonnx.compiler.shortlist.corpus import Corpus
from lmonnx.errors import BundleError, GateError, ParityError
from lmonnx.measure.metrics import wilson_interval
from lmonnx.progress import Progress, track
from lmonnx.runtime.generate.logprobs import log_softmax
from lmonnx.runtime.generate.shortlist import INPUTS, BatchList, Shortlist, open_shortlist
from lmonnx.runtime.pipelines import REWRITERS
from lmonnx.runtime.session import Arrays

# Of the logits' range: what the list leaves must be the input's. Products of blocks round what
# flows in to 8 bits, which those of a list do not.
_EXACT, _BLOCKS = 1e-4, 0.1


class ListedModel(PairModel):
    """A bundle with a shortlist: the logits of what a source's own list lacks are -inf."""

    LISTED = True

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        shortlist = open_shortlist(bundle)
        if shortlist is None:
            raise BundleError(f"{bundle.path} has no shortlist")
        self._list = BatchList(shortlist, 1)

    def decoder_inputs(self, pair: Pair) -> Arrays:
        """Return the decoder's inputs for one pair's whole target, all logits kept."""
        self._list.clear()
        self._list.add([pair.source.tolist()], shared=(), least=0)
        listed = self._list.part(0, 1)
        given = dict(zip(INPUTS, (listed.ids, listed.bias), strict=True))
        return {**super().decoder_inputs(pair), **given}

    def logits(self, pair: Pair) -> Logits:
        """Return the logits of every position of a pair's target: (T, V)."""
        found = super().logits(pair)
        return self._list.columns().whole(found)


def coverage(shortlist: Shortlist, corpus: Corpus) -> dict[str, float]:
    """Return the share of the held tokens, and of the held targets, that sources' lists hold.

    `ids` is how many ids a source's list has, in the mean.
    """
    inside = tokens = whole = ids = 0
    for pair in corpus.held:
        allowed = np.union1d(shortlist.always, shortlist.own(pair.source.tolist()))
        found = np.isin(pair.target[corpus.forced :], allowed)
        inside, tokens = inside + int(found.sum()), tokens + found.size
        whole, ids = whole + bool(found.all()), ids + len(allowed)
    held = len(corpus.held)
    return {
        "coverage": inside / max(1, tokens),
        "whole": whole / held,
        "ids": round(ids / held, 1),
    }


@dataclass(frozen=True, slots=True)
class ListGate:
    """The input bundle, and how much a list may lose: of the task's figure with references."""

    before: Bundle
    corpus: Corpus
    max_drop: float
    labelled: Gate | None

    def measure(self, made: Bundle, progress: Progress) -> tuple[dict[str, Any], Parity]:
        """Return the metrics of a bundle with a list, and how far its logits are the input's.

        Raises:
            GateError: It loses more than it may.
            ParityError: The list's logits are not those of the whole vocabulary.
        """
        tally = _tally(self.before, made, self.corpus, progress)
        parity = tally.parity(len(self.corpus.held))
        blocks = "MatMulNBits" in self.before.manifest.graphs["decoder"].operators
        if not parity.relative <= (_BLOCKS if blocks else _EXACT):
            raise ParityError(
                f"the logits of the list are up to {parity.relative:.2e} of their range away from "
                "the input bundle's; nothing was written. Export the checkpoint again"
            )
        told: dict[str, Any] = {
            "inside": float(np.mean(tally.inside)),
            "agreement": tally.same / tally.rows,
        }
        if self.labelled is not None:
            model: Any = REWRITERS[made.manifest.task](made)
            found = self.labelled.measure(model, progress)
            value, measured = found.value, found.measured
            told = found.as_metrics() | {"inside": told["inside"], "choices": told["agreement"]}
        else:
            value, measured = 1 - told["agreement"], "the tokens that the input bundle chooses"
            interval = wilson_interval(value * tally.rows, tally.rows)
            told |= {"drop": value, "interval": list(interval), "measured": measured}
            told["texts"] = len(self.corpus.held)
        if not value <= self.max_drop:
            raise GateError(
                f"the list loses {value:.4f} of {measured} on {told['texts']} held texts, more "
                f"than --max-drop {self.max_drop} allows; nothing was written. Learn from more "
                "text, allow more ids with --per-token and --top, or allow more loss"
            )
        return told, parity


def open_list_gate(
    bundle: Bundle, corpus: Corpus, max_drop: float, *, progress: Progress
) -> ListGate:
    """Let the input bundle answer what was held back, where there are references."""
    labelled: Gate | None = None
    if corpus.examples is not None:
        answering: Any = REWRITERS[bundle.manifest.task](bundle)
        labelled = open_gate(answering, corpus.examples, progress)
    return ListGate(bundle, corpus, max_drop, labelled)


@dataclass(slots=True)
class _Tally:
    """What is known of all logits so far."""

    difference: float = 0.0
    span: float = 0.0
    rows: int = 0
    same: int = 0
    inside: list[float] = field(default_factory=list)

    def add(self, before: Logits, after: Logits) -> None:
        """Take the logits of a target: (T, V) each."""
        listed = after > -np.inf
        far = float(np.abs(before - after)[listed].max())
        self.difference = max(self.difference, far) if np.isfinite(far) else np.inf
        self.span = max(self.span, float(np.ptp(before)))
        self.rows += len(before)
        self.same += int((before.argmax(axis=1) == after.argmax(axis=1)).sum())
        shares = np.exp(log_softmax(before)) * listed
        self.inside += shares.sum(axis=1).tolist()

    def parity(self, texts: int) -> Parity:
        """Return how far the list's logits are the input's."""
        relative = self.difference / self.span if self.span else np.inf
        return Parity(
            reference="the input bundle",
            texts=texts,
            max_difference=self.difference,
            relative=relative,
            agreement=self.same / self.rows,
            clear_agreement=self.same / self.rows,
        )


def _tally(before: Bundle, made: Bundle, corpus: Corpus, progress: Progress) -> _Tally:
    tally, one, other = _Tally(), PairModel(before), ListedModel(made)
    pairs: Sequence[Pair] = corpus.held
    for pair in track(pairs, "comparing", progress):
        chosen = slice(corpus.forced - 1, len(pair.target) - 1)
        tally.add(one.logits(pair)[chosen], other.logits(pair)[chosen])
    return tally
