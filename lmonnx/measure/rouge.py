"""ROUGE by rouge-score; the one door to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import UnsupportedError
from lmonnx.measure.bleu import References
from lmonnx.runtime.pipelines.sentences import sentences

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SIGNATURE = "rouge-score {}, stemmed, F1; Lsum by sentences"


def rouge_scores(given: Sequence[str], references: References) -> NDArray[np.float64]:
    """Return F1 of every text by every kind, (N, 4) in [0, 1], against its best reference.

    rougeLsum counts by sentences, which stand on lines of their own: where a text has no lines,
    our own splitter finds them. Letters other than a to z count for nothing.

    Raises:
        UnsupportedError: rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UnsupportedError(
            "ROUGE is counted by rouge-score: pip install 'lmonnx[eval]'"
        ) from error
    scorer = RougeScorer(list(KINDS), use_stemmer=True)
    rows = []
    for text, true in zip(given, references, strict=True):
        found = scorer.score_multi([_by_sentence(each) for each in true], _by_sentence(text))
        rows.append([found[kind].fmeasure for kind in KINDS])
    return np.array(rows, np.float64)


def signature(references: References) -> str:
    """Return what the figures are counted by."""
    del references
    from importlib.metadata import version

    return SIGNATURE.format(version("rouge-score"))


def _by_sentence(text: str) -> str:
    return text if "\n" in text.strip() else "\n".join(map(str.strip, sentences(text)))
