"""A query and documents → the documents' order, as sentence-transformers' CrossEncoder ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.pipelines.base import as_plain, at_least_one
from lmonnx.runtime.pipelines.text_classification import SequenceClassifier
from lmonnx.runtime.session import SessionConfig
from lmonnx.runtime.tokenizer import WHOLE, Cut, Long

DOCUMENT = Cut(part=1)  # the query stays whole, the document slides beside it


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document's place in the list that was given, and its score for the query."""

    index: int
    score: float


class Reranker(SequenceClassifier):
    """Score documents for a query, each pair by itself; serves any number of threads."""

    LONG = Long.TRUNCATE

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        super().__init__(bundle, config, long=long)
        if len(self.head.labels) != 1:
            raise BundleError(
                f"{bundle.path} has {len(self.head.labels)} labels, ranking needs a model of one; "
                "take one that was trained to rank"
            )

    def __call__(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        long: Long | str | None = None,
    ) -> list[Ranked]:
        """Return the documents, the best first; of equal ones the first first.

        Args:
            query: What is looked for.
            documents: What is ranked; they are read once, in bounded memory.
            top_k: How many to give, None for all.
            long: "truncate" (the longer of the two loses its end), "max" (a document is worth its
                best window), "window" (the windows' mean) or "error"; None is what `load` was
                told.

        Raises:
            InputError: The query is empty, a document is no text, or an option is wrong.
        """
        if not isinstance(query, str) or not query.strip():
            raise InputError("the query must be a str that is not empty")
        if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
            raise InputError(f"documents is {type(documents).__name__}, must be a list of str")
        if top_k is not None:
            at_least_one(top_k, "top_k")
        pairs = ((query, as_plain(document)) for document in documents)
        scores = np.array([score[0] for score, _ in self.scores(pairs, long=long)], np.float64)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(index), float(scores[index])) for index in order]

    def cut(self, long: Long) -> Cut:
        return WHOLE if long is Long.TRUNCATE else DOCUMENT
