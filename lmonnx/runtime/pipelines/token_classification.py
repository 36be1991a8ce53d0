"""Text → labelled tokens or entities, as transformers' token-classification pipeline gives them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import tee
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Head
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.pipelines.base import Outputs, Pipeline, as_plain, check_many, long_policy
from lmonnx.runtime.pipelines.entities import (
    Aggregation,
    Entity,
    Token,
    group_entities,
    label_tokens,
    merge_overlapping,
    read_pieces,
)
from lmonnx.runtime.pipelines.tokens import Tokens, merge, unpadded
from lmonnx.runtime.session import SessionConfig
from lmonnx.runtime.tokenizer import WHOLE, Cut, Long, Text

Logits = NDArray[np.float32]
Labelled = list[Token] | list[Entity]


class TokenClassifier(Pipeline[Logits]):
    """Label the tokens of texts, or find their entities; any number of threads may share one."""

    SPANS = True

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        head = bundle.manifest.head
        if head is None or not head.labels:
            raise BundleError(f"{bundle.path} has no labels; export it as token-classification")
        super().__init__(bundle, config, long=_rule(long))
        self.head: Head = head
        unknown = self._spec.unk_token
        self._unknown = self.tokenizer.id_of(unknown) if unknown else None

    def reduce(self, outputs: Outputs, batch: Batch) -> Sequence[Logits]:
        return unpadded(outputs["logits"], batch, self._spec.padding_side, (len(self.head.labels),))

    def raw(self, texts: Iterable[Text], *, long: Long | str | None = None) -> Iterator[Logits]:
        for windows in self.windows(texts, long=_rule(long)):
            yield merge(windows).rows.astype(np.float32)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is an Iterable[str] too
        self,
        texts: str,
        *,
        aggregation_strategy: Aggregation | str = Aggregation.NONE,
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
        long: Long | str | None = None,
    ) -> Labelled: ...

    @overload
    def __call__(
        self,
        texts: Iterable[str],
        *,
        aggregation_strategy: Aggregation | str = Aggregation.NONE,
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
        long: Long | str | None = None,
    ) -> list[Labelled]: ...

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        aggregation_strategy: Aggregation | str = Aggregation.NONE,
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
        long: Long | str | None = None,
    ) -> Labelled | list[Labelled]:
        """Label one text, or many in their order.

        Args:
            texts: A text, or texts.
            aggregation_strategy: "none" gives tokens; "simple", "first", "average" and "max" give
                entities, and differ in how a word's tokens agree on a label.
            ignore_labels: What is left out.
            stride: How many tokens two windows of a long text share; entities are then found in
                each window and of those that overlap the longest stays, as in transformers. None
                takes each token from the window that shows most around it.
            long: "window", "truncate" or "error", for text over the model's length; None is what
                `load` was told.

        Raises:
            InputError: A text is no text, too long with "error", or an option is wrong.
        """
        one = isinstance(texts, str)
        check_many(texts)
        answers = list(
            self.stream(
                [texts] if isinstance(texts, str) else texts,
                aggregation_strategy=aggregation_strategy,
                ignore_labels=ignore_labels,
                stride=stride,
                long=long,
            )
        )
        return answers[0] if one else answers

    def stream(
        self,
        texts: Iterable[str],
        *,
        aggregation_strategy: Aggregation | str = Aggregation.NONE,
        ignore_labels: Collection[str] = ("O",),
        stride: int | None = None,
        long: Long | str | None = None,
    ) -> Iterator[Labelled]:
        """Label an endless input in its order, in bounded memory."""
        aggregation = _aggregation(aggregation_strategy)
        if isinstance(ignore_labels, str) or not isinstance(ignore_labels, Collection):
            raise InputError(f"ignore_labels is {ignore_labels!r:.60}, must be a list of labels")
        rule = _rule(long)
        cut = WHOLE
        if stride is not None:
            cut, rule = self._strided(stride, aggregation, rule), Long.WINDOW
        asked, kept = tee(map(as_plain, texts))
        for windows, text in zip(self.windows(asked, long=rule, cut=cut), kept, strict=False):
            parts = [merge(windows)] if stride is None else [merge([w]) for w in windows]
            yield self._answer(parts, text, aggregation, ignore_labels)

    def _answer(
        self,
        parts: Sequence[Tokens],
        text: str,
        aggregation: Aggregation,
        ignored: Collection[str],
    ) -> Labelled:
        """Return a text's answer from its tokens, which are in several parts with a stride."""
        labels, join = self.head.labels, self.tokenizer.join
        read = [read_pieces(tokens, text, self.tokenizer, self._unknown) for tokens in parts]
        if aggregation is Aggregation.NONE:
            return label_tokens(read[0], labels, ignored)
        entities = [
            entity
            for pieces in read
            for entity in group_entities(pieces, labels, aggregation, join, ignored)
        ]
        return entities if len(parts) == 1 else merge_overlapping(entities)

    def _strided(self, stride: int, aggregation: Aggregation, long: Long | None) -> Cut:
        room = self.tokenizer.room()
        if type(stride) is not int or not 0 <= stride < room:
            raise InputError(f"stride is {stride!r:.60}, must be from 0 to {room - 1}")
        if aggregation is Aggregation.NONE:
            raise InputError(
                "stride merges entities, and aggregation_strategy='none' makes none; choose "
                "another, or leave stride out: long text is then answered whole too"
            )
        if long not in {None, Long.WINDOW}:
            raise InputError(f"stride makes windows, long is {long}; leave one out")
        return Cut(stride=stride)


def _aggregation(value: Aggregation | str) -> Aggregation:
    try:
        return Aggregation(value)
    except ValueError as error:
        known = ", ".join(Aggregation)
        raise InputError(
            f"aggregation_strategy is {value!r:.60}, must be one of {known}"
        ) from error


def _rule(value: Long | str | None) -> Long | None:
    """Return the rule for long text, None for the pipeline's own."""
    rule = None if value is None else long_policy(value)
    if rule is Long.MAX:
        raise InputError("long is 'max', which labels of tokens have no use for; take 'window'")
    return rule
