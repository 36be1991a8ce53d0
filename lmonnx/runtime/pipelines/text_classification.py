"""Text → labels with scores, as transformers' text-classification pipeline gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Head
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.numerics import ACTIVATIONS, Floats
from lmonnx.runtime.pipelines.base import LOOK_AHEAD, Pipeline, long_policy
from lmonnx.runtime.session import SessionConfig
from lmonnx.runtime.tokenizer import Long, Text

Item = Text | Mapping[str, str]
_LOGITS = "logits"


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


class TextClassifier(Pipeline):
    """Classify texts or pairs of texts; one instance serves any number of threads."""

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str = Long.WINDOW
    ) -> None:
        head = bundle.manifest.head
        if head is None or not head.labels:
            raise BundleError(f"{bundle.path} has no labels; export it as text-classification")
        super().__init__(bundle, config, long=long)
        self.head: Head = head
        if _LOGITS not in {output.name for output in bundle.manifest.graphs["model"].outputs}:
            raise BundleError(f"{bundle.path}: the graph gives no {_LOGITS}; export it again")

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
            long: "window" (mean over windows), "truncate" or "error", for text over the model's
                length; None is what `load` was told.

        Raises:
            InputError: A text is no text, too long with "error", or an option is wrong.
        """
        if top_k is not None and (type(top_k) is not int or top_k < 1):
            raise InputError(f"top_k is {top_k!r}, must be at least 1, or None for all labels")
        if one := isinstance(texts, str | Mapping) or _is_pair(texts):
            texts = [texts]  # type: ignore[list-item]
        if not isinstance(texts, Iterable):
            raise InputError(f"{type(texts).__name__} is no text, nor a list of texts")
        scores = self.scores([as_text(item) for item in texts], long=long)
        answers = [self._answer(row, windows, top_k) for row, windows in scores]
        return answers[0] if one else answers

    def stream(
        self, texts: Iterable[Item], *, top_k: int | None = 1, long: Long | str | None = None
    ) -> Iterator[Classification]:
        """Answer an endless input in its order, in bounded memory.

        Texts are read a few thousand ahead, so that like lengths run together.
        """
        source = iter(texts)
        while chunk := list(islice(source, LOOK_AHEAD)):
            yield from self(chunk, top_k=top_k, long=long)

    def logits(
        self, texts: Sequence[Text], *, long: Long | str | None = None
    ) -> NDArray[np.float32]:
        """Return what the graph gives before any activation, the mean over windows: (N, C)."""
        rows = [windows.mean(axis=0) for windows in self._windows(texts, long)]
        shape = (len(rows), len(self.head.labels))
        return np.array(rows, np.float32).reshape(shape)

    def scores(
        self, texts: Sequence[Text], *, long: Long | str | None = None
    ) -> Iterator[tuple[Floats, int]]:
        """Yield each text's scores, (C,), and how many windows they are the mean of."""
        activation = ACTIVATIONS[self.head.activation]
        for windows in self._windows(texts, long):
            yield activation(windows.astype(np.float64)).mean(axis=0), len(windows)

    def _windows(self, texts: Sequence[Text], long: Long | str | None) -> Iterator[Floats]:
        """Yield each text's logits: (windows, C)."""
        rule = None if long is None else long_policy(long)
        for windows in self.outputs(texts, _LOGITS, long=rule):
            if windows.shape[1:] != (len(self.head.labels),) or windows.dtype.kind != "f":
                raise BundleError(
                    f"{self.bundle.path}: the graph gives {windows.dtype} of the shape "
                    f"{windows.shape[1:]}, the manifest names {len(self.head.labels)} labels"
                )
            yield windows

    def _answer(self, scores: Floats, windows: int, top_k: int | None) -> Classification:
        order = np.argsort(-scores, kind="stable")[:top_k]
        labels = tuple(LabelScore(self.head.labels[i], float(scores[i])) for i in order)
        return Classification(labels[0].label, labels[0].score, labels, windows)


def as_text(item: Item) -> Text:
    """Return a text, or a pair as a tuple.

    Raises:
        InputError: `item` is neither.
    """
    if isinstance(item, str) or _is_pair(item):
        return item  # type: ignore[return-value]
    if isinstance(item, Mapping) and set(item) == {"text", "text_pair"}:
        return item["text"], item["text_pair"]
    if isinstance(item, Mapping) and set(item) == {"text"}:
        return item["text"]
    raise InputError(
        f"{type(item).__name__} is no text: give a str, a tuple of two, or a mapping with "
        "`text` and `text_pair`"
    )


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(x, str) for x in item)
