"""Text → labels with scores, as transformers' text-classification pipeline gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Head
from lmonnx.errors import BundleError
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.numerics import ACTIVATIONS, Floats
from lmonnx.runtime.pipelines.base import (
    Item,
    Outputs,
    Pipeline,
    as_text,
    at_least_one,
    check_many,
    is_pair,
    long_policy,
    merge_scores,
)
from lmonnx.runtime.session import SessionConfig
from lmonnx.runtime.tokenizer import WHOLE, Cut, Long, Text


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its score: a probability, or the value itself for a regression."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer to one text: the best label, and the best `top_k` of them, highest first.

    `windows` is 1 unless the text was longer than the model; scores are then the windows' mean.
    """

    label: str
    score: float
    labels: tuple[LabelScore, ...]
    windows: int = 1


class SequenceClassifier(Pipeline[NDArray[np.float32]]):
    """A graph that gives one row of logits a text; what they mean is the task's."""

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        head = bundle.manifest.head
        if head is None or not head.labels:
            raise BundleError(f"{bundle.path} has no labels; export it as text-classification")
        super().__init__(bundle, config, long=long)
        self.head: Head = head

    def reduce(self, outputs: Outputs, batch: Batch) -> Sequence[NDArray[np.float32]]:
        logits = outputs["logits"]  # (B, C)
        if logits.shape[1:] != (len(self.head.labels),) or logits.dtype.kind != "f":
            raise BundleError(
                f"{self.bundle.path}: the graph gives {logits.dtype} of the shape "
                f"{logits.shape[1:]}, the manifest names {len(self.head.labels)} labels"
            )
        return list(logits)

    def cut(self, long: Long) -> Cut:
        """Return which text of a pair slides over long text, and which stands beside it whole."""
        del long
        return WHOLE

    def logits(
        self, texts: Sequence[Text], *, long: Long | str | None = None
    ) -> NDArray[np.float32]:
        """Return what the graph gives before any activation, the mean over windows: (N, C)."""
        rows = list(self.raw(texts, long=long))
        return np.array(rows, np.float32).reshape(len(rows), len(self.head.labels))

    def raw(
        self, texts: Iterable[Text], *, long: Long | str | None = None
    ) -> Iterator[NDArray[np.float32]]:
        for windows in self._stacked(texts, long):
            yield windows.mean(axis=0, keepdims=True).astype(np.float32)

    def scores(
        self, texts: Iterable[Text], *, long: Long | str | None = None
    ) -> Iterator[tuple[Floats, int]]:
        """Yield each text's scores, (C,), and how many windows they are of."""
        activation = ACTIVATIONS[self.head.activation]
        rule = self._long if long is None else long_policy(long)
        for windows in self._stacked(texts, rule):
            yield merge_scores(activation(windows.astype(np.float64)), rule), len(windows)

    def _stacked(self, texts: Iterable[Text], long: Long | str | None) -> Iterator[Floats]:
        """Yield each text's logits: (windows, C)."""
        rule = self._long if long is None else long_policy(long)
        for windows in self.windows(texts, long=rule, cut=self.cut(rule)):
            yield np.stack([window.row for window in windows])


class TextClassifier(SequenceClassifier):
    """Classify texts or pairs of texts; one instance serves any number of threads."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too
        self, texts: Item, *, top_k: int | None = 1, long: Long | str | None = None
    ) -> Classification: ...

    @overload
    def __call__(
        self, texts: Sequence[Item], *, top_k: int | None = 1, long: Long | str | None = None
    ) -> list[Classification]: ...

    def __call__(
        self,
        texts: Item | Sequence[Item],
        *,
        top_k: int | None = 1,
        long: Long | str | None = None,
    ) -> Classification | list[Classification]:
        """Answer one text, or many in their order.

        Args:
            texts: A text, a pair (tuple of two texts, or a mapping with `text` and `text_pair`),
                or a list of these.
            top_k: How many labels to give, None for all.
            long: "window" (mean over windows), "max" (each label's highest), "truncate" or
                "error", for text over the model's length; None is what `load` was told.

        Raises:
            InputError: A text is no text, too long with "error", or an option is wrong.
        """
        if one := isinstance(texts, str | Mapping) or is_pair(texts):
            texts = [texts]  # type: ignore[list-item]
        check_many(texts)
        answers = list(self.stream(texts, top_k=top_k, long=long))
        return answers[0] if one else answers

    def stream(
        self, texts: Iterable[Item], *, top_k: int | None = 1, long: Long | str | None = None
    ) -> Iterator[Classification]:
        """Answer an endless input in its order, in bounded memory.

        Texts are read a few thousand ahead, so that like lengths run together.
        """
        if top_k is not None:
            at_least_one(top_k, "top_k")
        for scores, windows in self.scores(map(as_text, texts), long=long):
            yield self._answer(scores, windows, top_k)

    def _answer(self, scores: Floats, windows: int, top_k: int | None) -> Classification:
        order = np.argsort(-scores, kind="stable")[:top_k]
        labels = tuple(LabelScore(self.head.labels[i], float(scores[i])) for i in order)
        return Classification(labels[0].label, labels[0].score, labels, windows)
