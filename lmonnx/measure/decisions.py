"""Raw outputs → what they decide: the one rule of parity, gates and accuracy for every task.

A text's raw outputs are (rows, C): see `Pipeline.raw`. They are kept in a list, since tokens,
positions and so rows and columns differ from text to text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Activation, Manifest, Task
from lmonnx.progress import Progress, silent
from lmonnx.runtime.numerics import ACTIVATIONS, Floats
from lmonnx.runtime.tokenizer import Long, Text

Raw = NDArray[np.float32]  # (rows, C)
Answers = Sequence[Raw]
T = TypeVar("T")

_CHUNK = 512


class RawModel(Protocol):
    """A loaded bundle that gives raw outputs: a pipeline, or a decoder's logits after a text."""

    bundle: Bundle

    def raw(self, texts: Sequence[Text], *, long: Long | None = None) -> Iterable[Raw]:
        """Return each text's raw outputs, (rows, C)."""
        ...


class Decision(StrEnum):
    """What a row of raw outputs says."""

    BEST = "best"  # the highest: a label, a token, a position
    EACH = "each"  # yes or no to each label
    VALUE = "value"  # a number
    VECTOR = "vector"  # a direction


_TASKS: Mapping[Task, Decision] = {
    Task.QUESTION_ANSWERING: Decision.BEST,
    Task.FILL_MASK: Decision.BEST,
    Task.FEATURE_EXTRACTION: Decision.VECTOR,
    Task.TEXT_RANKING: Decision.VALUE,  # a score orders; no side of 0 is right
}
_ACTIVATIONS: Mapping[Activation, Decision] = {
    Activation.SOFTMAX: Decision.BEST,
    Activation.SIGMOID: Decision.EACH,
    Activation.NONE: Decision.VALUE,
}
_SCORES: Mapping[Decision, Activation] = {
    Decision.BEST: Activation.SOFTMAX,
    Decision.EACH: Activation.SIGMOID,
    Decision.VALUE: Activation.NONE,
    Decision.VECTOR: Activation.NONE,
}
AGREED: Mapping[Decision, str] = {
    Decision.BEST: "same label",
    Decision.EACH: "same label",
    Decision.VALUE: "correlation",
    Decision.VECTOR: "mean cosine",
}
_AGREED: Mapping[Task, str] = {
    Task.QUESTION_ANSWERING: "same position",
    Task.FILL_MASK: "same token",
    Task.TEXT_GENERATION: "same token",
    Task.TRANSLATION: "same token",
    Task.SUMMARIZATION: "same token",
    Task.TEXT_TO_TEXT: "same token",
}


def decision_of(manifest: Manifest) -> Decision:
    """Return what a bundle's rows say: its task's rule, else that of its head."""
    activation = manifest.head.activation if manifest.head else Activation.SOFTMAX
    return _TASKS.get(manifest.task, _ACTIVATIONS[activation])


def agreed(manifest: Manifest) -> str:
    """Return what the agreement of two bundles of this kind is called."""
    return _AGREED.get(manifest.task, AGREED[decision_of(manifest)])


def agreement_text(manifest: Manifest, agreement: float) -> str:
    """Return what an agreement is called, and how large it is."""
    shown = f"{agreement:.2%}" if decides(manifest) else f"{agreement:.6f}"
    return f"{agreed(manifest)} {shown}"


def decides(manifest: Manifest) -> bool:
    """Say whether a bundle's rows are a choice, and no number or vector."""
    return decision_of(manifest) in {Decision.BEST, Decision.EACH}


def decide(raw: Raw, decision: Decision) -> NDArray[np.int64]:
    """Return what each row decides: the best column (rows, 1), or yes or no to each (rows, C).

    A value or a vector decides nothing; its column is 0 throughout.
    """
    if decision is Decision.BEST and raw.size:
        best: NDArray[np.int64] = raw.argmax(axis=1, keepdims=True).astype(np.int64)
        return best
    if decision is Decision.EACH:
        return (raw > 0).astype(np.int64)
    return np.zeros((len(raw), 1), np.int64)


def scores(raw: Raw, decision: Decision) -> Floats:
    """Return what the rows decide by, (rows, C): probabilities where they decide."""
    result = raw.astype(np.float64)
    return ACTIVATIONS[_SCORES[decision]](result) if raw.size else result


def margins(raw: Raw, decision: Decision) -> NDArray[np.float64]:
    """Return how far each row's decision is from the other way, in scores: (rows,) in [0, 1]."""
    if decision is Decision.BEST and raw.size and raw.shape[1] > 1:
        ranked = np.partition(scores(raw, decision), -2, axis=1)
        best: NDArray[np.float64] = ranked[:, -1] - ranked[:, -2]
        return best
    if decision is Decision.EACH:
        each: NDArray[np.float64] = np.abs(2 * scores(raw, decision) - 1).min(axis=1)
        return each
    return np.ones(len(raw))


def answer_all(
    model: RawModel,
    texts: Sequence[Text],
    *,
    long: Long | None = None,
    progress: Progress = silent,
) -> list[Raw]:
    """Return the raw outputs of all texts, telling how many are done."""
    return [raw for chunk in chunks(texts, progress) for raw in model.raw(chunk, long=long)]


def chunks(items: Sequence[T], progress: Progress) -> Iterator[Sequence[T]]:
    """Yield some items at a time, telling how many are done."""
    for start in range(0, len(items), _CHUNK):
        progress("evaluate", start, len(items))
        yield items[start : start + _CHUNK]
    progress("evaluate", len(items), len(items))


def is_finite(answers: Answers) -> bool:
    """Say whether no output is NaN or infinite."""
    return all(np.isfinite(raw).all() for raw in answers)


def stacked(answers: Answers) -> Raw:
    """Return the rows of all texts in one array: (N, C), where all have C columns."""
    held = [raw for raw in answers if raw.size]
    return np.concatenate(held) if held else np.empty((0, 1), np.float32)


def unit(vectors: Floats) -> Floats:
    """Return vectors of length 1; a zero vector stays."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Floats = vectors / np.where(length > 0, length, 1)
    return result
