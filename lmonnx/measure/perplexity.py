"""How well a decoder predicts text, and how far another one's predictions are from its."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import CacheSpec
from lmonnx.errors import BundleError, InputError
from lmonnx.measure.metrics import Interval, bootstrap_interval
from lmonnx.progress import Progress, silent, track
from lmonnx.runtime.session import Arrays, Session, SessionConfig
from lmonnx.runtime.tokenizer import Tokenizer

WINDOW = 512
_WITHOUT_END = 1 << 40
_ROWS = 64  # of logits in float64 at once

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two decoders on the same windows.

    `interval` is the 95% one of the ratio of perplexities, over windows; `kl` the mean of
    KL(reference ‖ other) in nats; `agreement` the share of positions with the same likeliest token.
    """

    reference: float
    perplexity: float
    interval: Interval
    kl: float
    agreement: float
    predictions: int

    @property
    def ratio(self) -> float:
        """Return how many times the reference's perplexity the other's is."""
        return self.perplexity / self.reference


class Predictor:
    """One graph of a decoder, run over whole windows with nothing before them."""

    def __init__(
        self, bundle: Bundle, role: str = "model", config: SessionConfig | None = None
    ) -> None:
        if bundle.manifest.generation is None:
            raise BundleError(f"{bundle.path} is no decoder; perplexity is measured of decoders")
        graph = bundle.manifest.graphs[role]
        self._cache = bundle.manifest.generation.cache
        self._session = Session(bundle.file(graph.file), graph, config or SessionConfig())

    def logits(self, ids: Ids) -> Logits:
        """Return the logits of every position: (S,) → (S, V)."""
        found: Logits = self._session.run(window_inputs(ids, self._cache))["logits"][0]
        return found


def window_inputs(ids: Ids, cache: CacheSpec) -> Arrays:
    """Return a decoder graph's inputs for one window (S,) from its start, all logits kept."""
    length = len(ids)
    shape = (1, cache.heads, length, cache.head_size)
    past = {
        f"past_key_values.{layer}.{part}": np.zeros(shape, np.float32)
        for layer in range(cache.layers)
        for part in ("key", "value")
    }
    return past | {
        "input_ids": ids[None],
        "seqlens_k": np.array([length - 1], np.int32),
        "total_sequence_length": np.array(length, np.int32),
        "logits_to_keep": np.array(length, np.int64),
    }


def read_windows(bundle: Bundle, text: str, length: int = WINDOW) -> list[Ids]:
    """Return disjoint windows of a text's ids; the rest is left out, unless it is all there is.

    What the tokenizer puts in front of a text stands in front of every window, what it puts behind
    it behind none.

    Raises:
        InputError: The text is shorter than two tokens.
    """
    spec = bundle.manifest.text
    endless = replace(spec, max_length=_WITHOUT_END)
    tokenizer = Tokenizer(bundle.file(spec.source.file), endless)
    added, ids = (tokenizer.encode([each])[0].ids for each in ("", text))
    before = [first for first, other in zip(added, ids, strict=False) if first == other]
    after = len(added) - len(before)
    body = ids[len(before) : len(ids) - after]
    room = min(length, spec.max_length) - len(before)
    if len(body) < 2:
        raise InputError("the text is too short to measure perplexity on; give a longer one")
    starts = range(0, max(1, len(body) - room + 1), room)
    return [np.array([*before, *body[start : start + room]], np.int64) for start in starts]


def surprise(logits: Logits, ids: Ids) -> Floats:
    """Return -log P of each token after the first: (S, V), (S,) → (S - 1,)."""
    last = len(ids) - 1
    parts = [
        -np.take_along_axis(
            _log_softmax(logits[at : min(at + _ROWS, last)]), ids[1 + at :][:_ROWS, None], 1
        )
        for at in range(0, last, _ROWS)
    ]
    return np.concatenate(parts)[:, 0]


def perplexity(
    predictor: Predictor, windows: Sequence[Ids], *, progress: Progress = silent
) -> float:
    """Return exp of the mean surprise over all predictions of some windows."""
    costs = [surprise(predictor.logits(ids), ids) for ids in track(windows, "reading", progress)]
    return float(np.exp(np.concatenate(costs).mean()))


def compare(
    reference: Predictor,
    other: Predictor,
    windows: Sequence[Ids],
    *,
    progress: Progress = silent,
) -> Comparison:
    """Return how far `other` is from `reference` on some windows; only one's logits are held.

    A NaN anywhere makes the other's perplexity and KL infinite.
    """
    return compare_logits(
        (reference.logits(ids), other.logits(ids), ids)
        for ids in track(windows, "comparing", progress)
    )


def compare_logits(windows: Iterable[tuple[Logits, Logits, Ids]]) -> Comparison:
    """Return how far predictions are from a reference's.

    Args:
        windows: The reference's logits, the other's, both (S, V), and the ids (S,) that they are
            of: each position predicts the next.
    """
    rows = [_compared(*window) for window in windows]
    sums = np.array([row.sum(axis=1) for row in rows])  # (windows, 4)
    counts = np.array([row.shape[1] for row in rows])

    def ratio(drawn: NDArray[np.int64]) -> float:
        extra = sums[drawn, 1] - sums[drawn, 0]
        return float(np.exp(extra.sum() / counts[drawn].sum()))

    before, after, kl, same = sums.sum(axis=0) / counts.sum()
    sound = bool(np.isfinite(after) and np.isfinite(kl))
    interval = bootstrap_interval(ratio, len(rows)) if sound else (np.inf, np.inf)
    return Comparison(
        reference=float(np.exp(before)),
        perplexity=float(np.exp(after)) if sound else np.inf,
        interval=interval,
        kl=float(kl) if sound else np.inf,
        agreement=float(same),
        predictions=int(counts.sum()),
    )


def _compared(first: Logits, second: Logits, ids: Ids) -> Floats:
    """Return both surprises, the KL and whether the likeliest agree: (4, S - 1)."""
    found = np.empty((4, len(ids) - 1))
    for at in range(0, len(ids) - 1, _ROWS):
        here = slice(at, min(at + _ROWS, len(ids) - 1))
        wanted = ids[1:][here, None]
        p, q = _log_softmax(first[here]), _log_softmax(second[here])
        found[0, here] = -np.take_along_axis(p, wanted, 1)[:, 0]
        found[1, here] = -np.take_along_axis(q, wanted, 1)[:, 0]
        found[2, here] = (np.exp(p) * (p - q)).sum(axis=1)
        found[3, here] = p.argmax(axis=1) == q.argmax(axis=1)
    return found


def _log_softmax(logits: Logits) -> Floats:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows
