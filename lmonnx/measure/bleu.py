"""BLEU, chrF and TER by sacrebleu; the one door to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import UnsupportedError

# References of one text each: (N,) of (R,).
References = Sequence[tuple[str, ...]]
Counts = NDArray[np.float64]  # (N, K): what the score of some texts is made of, their sum

_ORDER = 4  # of BLEU's n-grams


def corpus_score(name: str, given: Sequence[str], references: References) -> tuple[float, str]:
    """Return a metric of all texts, as sacrebleu gives it, and its signature.

    Args:
        name: "bleu", "chrf" or "ter".
        given: The answers.
        references: The right answers of each; sacrebleu's own rules count several.

    Raises:
        UnsupportedError: sacrebleu is not installed.
    """
    metric = _metric(name)
    score = float(metric.corpus_score(list(given), _streams(references)).score)
    return score, str(metric.get_signature().format())


def signature(name: str, references: References) -> str:
    """Return by what rules a metric of these texts is counted, as others must state to compare."""
    metric = _metric(name)
    few = list({len(row): row for row in references}.values())  # it states how many each has
    metric.corpus_score([""] * len(few), _streams(few))
    return str(metric.get_signature().format())


def counts(name: str, given: Sequence[str], references: References) -> Counts:
    """Return what each text adds to BLEU, (N, 10), or to TER, (N, 2)."""
    # A lone text is scored without a warning by its longest n-grams; the counts are the same.
    metric = _metric(name, **({"effective_order": True} if name == "bleu" else {}))
    count = _COUNTS[name]
    rows = [
        count(metric.sentence_score(text, list(true)))
        for text, true in zip(given, references, strict=True)
    ]
    return np.array(rows, np.float64)


def score_of(name: str, total: Counts) -> float:
    """Return the metric of some texts from the sum of their counts, (K,)."""
    return _SCORES[name](total)


def _streams(references: References) -> list[list[str | None]]:
    """Return the n-th reference of every text, n by n; None where a text has fewer."""
    most = max(map(len, references))
    return [[row[n] if n < len(row) else None for row in references] for n in range(most)]


def _metric(name: str, **options: Any) -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise UnsupportedError(
            f"{name} is counted by sacrebleu: pip install 'lmonnx[eval]'"
        ) from error
    return {"bleu": metrics.BLEU, "chrf": metrics.CHRF, "ter": metrics.TER}[name](**options)


def _bleu_counts(score: Any) -> list[float]:
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def _ter_counts(score: Any) -> list[float]:
    return [score.num_edits, score.ref_length]


def _bleu(total: Counts) -> float:
    lengths, correct, every = np.split(total, [2, 2 + _ORDER])
    metric = _metric("bleu")
    found = metric.compute_bleu(
        correct.tolist(), every.tolist(), int(lengths[0]), int(lengths[1]), smooth_method="exp"
    )
    return float(found.score)


def _ter(total: Counts) -> float:
    edits, length = total
    return 100 * float(edits / length if length else min(1.0, edits))


_COUNTS: Mapping[str, Callable[[Any], list[float]]] = {"bleu": _bleu_counts, "ter": _ter_counts}
_SCORES: Mapping[str, Callable[[Counts], float]] = {"bleu": _bleu, "ter": _ter}
