"""Text and labels of one's own → scores, as transformers' zero-shot pipeline gives them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from string import Formatter
from typing import overload

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.numerics import Floats, softmax
from lmonnx.runtime.pipelines.base import as_plain, check_many, long_policy, merge_scores
from lmonnx.runtime.pipelines.text_classification import SequenceClassifier
from lmonnx.runtime.session import SessionConfig
from lmonnx.runtime.tokenizer import Cut, Long, Text

TEMPLATE = "This example is {}."
# The hypothesis stays whole, the text slides beside it.
PREMISE = Cut(part=0)


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """The answer to one text: every label and its score, highest first."""

    sequence: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]


class ZeroShotClassifier(SequenceClassifier):
    """Score labels by how far a text entails "This example is <label>.", each pair by itself.

    Of text longer than the model the windows' entailment logits are merged before the softmax
    over labels; with `multi_label`, the windows' probabilities are.
    """

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        super().__init__(bundle, config, long=long)
        names = [label.lower() for label in self.head.labels]
        found = [i for i, name in enumerate(names) if name.startswith("entail")]
        if not found:
            raise BundleError(
                f"{bundle.path} was not trained on natural language inference: none of its labels "
                "is entailment; take a model that was"
            )
        self._entailment = found[0]
        self._contradiction = len(names) - 1 if self._entailment == 0 else 0

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is an Iterable[str] too
        self,
        texts: str,
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = TEMPLATE,
        multi_label: bool = False,
        long: Long | str | None = None,
    ) -> ZeroShot: ...

    @overload
    def __call__(
        self,
        texts: Iterable[str],
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = TEMPLATE,
        multi_label: bool = False,
        long: Long | str | None = None,
    ) -> list[ZeroShot]: ...

    def __call__(
        self,
        texts: str | Iterable[str],
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = TEMPLATE,
        multi_label: bool = False,
        long: Long | str | None = None,
    ) -> ZeroShot | list[ZeroShot]:
        """Answer one text, or many in their order.

        Args:
            texts: A text, or a list of them.
            candidate_labels: A list, or one str with commas between the labels.
            hypothesis_template: What is asked of a label, which stands where {} is.
            multi_label: Score each label for itself, so that several or none may hold.
            long: "window", "max", "truncate" or "error", for text that with its hypothesis is
                over the model's length; None is what `load` was told.

        Raises:
            InputError: A text is no text, there are no labels, or an option is wrong.
        """
        one = isinstance(texts, str)
        check_many(texts)
        answers = self.stream(
            [texts] if isinstance(texts, str) else texts,
            candidate_labels,
            hypothesis_template=hypothesis_template,
            multi_label=multi_label,
            long=long,
        )
        found = list(answers)
        return found[0] if one else found

    def stream(
        self,
        texts: Iterable[str],
        candidate_labels: str | Sequence[str],
        *,
        hypothesis_template: str = TEMPLATE,
        multi_label: bool = False,
        long: Long | str | None = None,
    ) -> Iterator[ZeroShot]:
        """Answer an endless input in its order; memory grows with neither texts nor pairs."""
        labels = read_labels(candidate_labels)
        hypotheses = fill_template(hypothesis_template, labels)
        if type(multi_label) is not bool:
            raise InputError(f"multi_label is {multi_label!r:.60}, must be True or False")
        each = multi_label or len(labels) == 1
        rule = self._long if long is None else long_policy(long)
        longest = self._longest(labels, hypotheses)
        waiting: deque[str] = deque()

        def pairs() -> Iterator[Text]:
            for row, text in enumerate(map(as_plain, texts)):
                self._check(text, longest, row, rule)
                waiting.append(text)
                yield from ((text, hypothesis) for hypothesis in hypotheses)

        scored = self._entailed(pairs(), rule, each=each)
        while len(scores := np.fromiter(islice(scored, len(labels)), np.float64)):
            yield _answer(waiting.popleft(), labels, scores if each else softmax(scores))

    def _entailed(self, pairs: Iterable[Text], rule: Long, *, each: bool) -> Iterator[float]:
        """Yield each pair's entailment: the logit, or `each` by itself against contradiction."""
        chosen = [self._contradiction, self._entailment]
        for windows in self._stacked(pairs, rule):
            logits = windows[:, chosen].astype(np.float64)  # (windows, 2)
            scores = softmax(logits) if each else logits
            yield float(merge_scores(scores, rule)[1])

    def cut(self, long: Long) -> Cut:
        del long
        return PREMISE

    def _longest(self, labels: Sequence[str], hypotheses: Sequence[str]) -> str:
        """Return the hypothesis of most tokens, all of which must leave room for a text."""
        try:
            found = self.tokenizer.encode([("", h) for h in hypotheses], Long.TRUNCATE)
        except InputError as error:
            raise InputError(f"candidate_labels: {error}") from error
        lengths = [len(encoding.ids) for encoding in found]  # special tokens included
        place = lengths.index(max(lengths))
        if lengths[place] >= self.bundle.manifest.text.max_length:
            raise InputError(f"the label {labels[place]!r:.60} leaves no room for text; shorten it")
        return hypotheses[place]

    def _check(self, text: str, longest: str, row: int, rule: Long) -> None:
        """Refuse a text by its own number, before it is in many pairs."""
        policy = Long.ERROR if rule is Long.ERROR else Long.TRUNCATE
        self.tokenizer.encode([(text, longest)], policy, first=row)


def read_labels(candidate_labels: str | Sequence[str]) -> list[str]:
    """Return the labels of a list, or of a str with commas between them.

    Raises:
        InputError: There is none, or one is no str.
    """
    labels: Sequence[str] = candidate_labels
    if isinstance(candidate_labels, str):
        labels = [label for part in candidate_labels.split(",") if (label := part.strip())]
    if not isinstance(labels, Sequence) or not all(isinstance(label, str) for label in labels):
        raise InputError("candidate_labels must be a list of str, or one str with commas")
    if not labels:
        raise InputError("candidate_labels names no label; give at least one")
    return list(labels)


def fill_template(template: str, labels: Sequence[str]) -> list[str]:
    """Return the hypothesis of every label.

    Raises:
        InputError: The template has no {}, or more in it than a label's place.
    """
    problem = "must be text with {} in it for the label"
    try:
        parts = list(Formatter().parse(template))
        # Formats and attributes are refused: {:>9999999999} would take all memory.
        plain = all(part[1] in (None, "", "0") and not part[2] and not part[3] for part in parts)
        if plain and any(part[1] is not None for part in parts):
            return [template.format(label) for label in labels]
    except (TypeError, ValueError, IndexError) as error:
        problem += f" ({error})"
    raise InputError(f"hypothesis_template is {template!r:.80}, {problem}")


def _answer(text: str, labels: Sequence[str], scores: Floats) -> ZeroShot:
    order = np.argsort(-scores, kind="stable")
    return ZeroShot(text, tuple(labels[i] for i in order), tuple(scores[order].tolist()))
