"""Encode, batch, run, reduce: the loop that every single-graph task shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.batch import Batch, batches
from lmonnx.runtime.kernels import int8_is_exact
from lmonnx.runtime.numerics import Floats
from lmonnx.runtime.session import (
    BULK_TOKENS,
    MAX_TOKENS,
    MAX_TOKENS_OF_A_THREAD,
    Session,
    SessionConfig,
)
from lmonnx.runtime.side_by_side import SideBySide
from lmonnx.runtime.tokenizer import WHOLE, Cut, Encoding, Long, Text, Tokenizer

# What is read ahead of an endless input: its lengths are sorted together.
LOOK_AHEAD = 1024  # texts
LOOK_AHEAD_CHARACTERS = 4 * 2**20

Outputs = Mapping[str, NDArray[Any]]
Item = Text | Mapping[str, str]
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Window(Generic[Row]):
    """One window of a text, and what the pipeline keeps of the graph's outputs for it."""

    encoding: Encoding
    row: Row


class Pipeline(ABC, Generic[Row]):
    """A loaded bundle: its tokenizer and the session of its one graph; safe to share by threads.

    A task says which `OUTPUTS` it needs, whether it needs `SPANS`, its rule for `LONG` text, and
    how to `reduce` a batch's outputs to one row a window.
    """

    OUTPUTS: ClassVar[tuple[str, ...]] = ("logits",)
    SPANS: ClassVar[bool] = False
    LONG: ClassVar[Long] = Long.WINDOW

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        text = bundle.manifest.text
        graph = bundle.manifest.graphs.get("model")
        if graph is None:
            raise BundleError(f"{bundle.path} has no graph called model; export it again")
        given = {output.name for output in graph.outputs}
        if missing := [name for name in self.OUTPUTS if name not in given]:
            raise BundleError(f"{bundle.path}: the graph gives no {missing[0]}; export it again")
        self.bundle = bundle
        self.config = config or SessionConfig()
        self.tokenizer = Tokenizer(bundle.file(text.source.file), text)
        # No CPU is known whose kernel saturates on 7-bit weights; one that does is made to widen.
        integers = "MatMulIntegerToFloat" in graph.operators
        precise = integers and (self.config.wide_int8 or not int8_is_exact())
        path = bundle.file(graph.file)
        self.session = Session(path, graph, self.config, precise=precise)
        alone = replace(self.config, threads=1)
        self._side_by_side = (
            SideBySide(
                lambda: Session(path, graph, alone, precise=precise), self.config.threads_used
            )
            if self.config.runs_side_by_side(bundle.bytes)
            else None
        )
        self._long = self.LONG if long is None else long_policy(long)
        self._spec = text.source

    @abstractmethod
    def reduce(self, outputs: Outputs, batch: Batch) -> Sequence[Row]:
        """Return what is kept of a batch's outputs: one row a window, in the batch's order."""

    @abstractmethod
    def raw(
        self, texts: Iterable[Text], *, long: Long | str | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield a text's outputs before any activation, (rows, C): what parity and gates compare.

        A sequence classifier gives a row, a token classifier one a token of the text, question
        answering two (start and end, C positions), fill-mask one a mask, an embedder its vector.
        """

    def windows(
        self,
        texts: Iterable[Text],
        *,
        long: Long | str | None = None,
        cut: Cut = WHOLE,
        reduce: Callable[[Outputs, Batch], Sequence[Any]] | None = None,
    ) -> Iterator[list[Window[Row]]]:
        """Yield each text's windows, in the order of `texts`, which may be endless.

        Memory is bounded: texts are read some thousand ahead, and tokenized while others run.

        Args:
            texts: The request; a pair is a tuple of two.
            long: What to do with long text; None is the pipeline's own rule.
            cut: How long text becomes windows.
            reduce: What to keep of the outputs, where it is not the task's own.
        """
        rule = self._long if long is None else long_policy(long)
        for encodings in self._encoded(texts, rule, cut):
            rows = self._run(encodings, reduce or self.reduce)
            found = (Window(*pair) for pair in zip(encodings, rows, strict=True))
            for _, group in groupby(found, key=lambda window: window.encoding.row):
                yield list(group)

    def _encoded(self, texts: Iterable[Text], long: Long, cut: Cut) -> Iterator[list[Encoding]]:
        """Yield the windows of some texts at a time; the next are made while these are used."""
        chunks, first = read_ahead(texts), 0

        def encode(chunk: list[Text], first: int) -> list[Encoding]:
            return self.tokenizer.encode(chunk, long, first=first, cut=cut, spans=self.SPANS)

        chunk, after = next(chunks, None), next(chunks, None)
        if after is None:  # a short request needs no thread
            if chunk is not None:
                yield encode(chunk, 0)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(encode, chunk or [], first)
            while chunk is not None:
                first += len(chunk)
                ready = waiting.result()
                if after is not None:
                    waiting = pool.submit(encode, after, first)
                yield ready
                chunk, after = after, next(chunks, None)

    def _run(
        self, encodings: list[Encoding], reduce: Callable[[Outputs, Batch], Sequence[Any]]
    ) -> list[Any]:
        rows: list[Any] = [None] * len(encodings)

        def work(session: Session, batch: Batch) -> None:  # ids (B, S) → a row each
            outputs = session.run(batch.inputs)
            for name in self.OUTPUTS:
                if outputs[name].shape[:1] != (len(batch.places),):
                    raise BundleError(f"{self.bundle.path}: {name} has not one row a text")
            for place, row in zip(batch.places, reduce(outputs, batch), strict=True):
                rows[place] = row

        tokens, crew = sum(len(encoding.ids) for encoding in encodings), self._side_by_side
        bulk = crew is not None and tokens >= BULK_TOKENS * self.config.threads_used
        most = self.config.max_tokens or (MAX_TOKENS_OF_A_THREAD if bulk else MAX_TOKENS)
        made = batches(encodings, self._spec, self.session.inputs, max_tokens=most)
        if bulk and crew is not None:
            crew.run(made, work)
        else:
            for batch in made:
                work(self.session, batch)
        return rows


def read_ahead(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Yield lists of at most LOOK_AHEAD texts, or of some million characters."""
    chunk: list[Text] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        parts = text if isinstance(text, tuple) else (text,)
        characters += sum(len(part) for part in parts if isinstance(part, str))
        if len(chunk) >= LOOK_AHEAD or characters >= LOOK_AHEAD_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def long_policy(value: Long | str) -> Long:
    """Return the rule for long text that `value` names.

    Raises:
        InputError: There is no such rule.
    """
    try:
        return Long(value)
    except ValueError as error:
        raise InputError(f"long is {value!r}, must be one of {', '.join(Long)}") from error


def as_text(item: Item) -> Text:
    """Return a text, or a pair as a tuple.

    Raises:
        InputError: `item` is neither.
    """
    if isinstance(item, str) or is_pair(item):
        return item  # type: ignore[return-value]
    if isinstance(item, Mapping) and set(item) == {"text", "text_pair"}:
        return item["text"], item["text_pair"]
    if isinstance(item, Mapping) and set(item) == {"text"}:
        return item["text"]
    raise InputError(
        f"{type(item).__name__} is no text: give a str, a tuple of two, or a mapping with "
        "`text` and `text_pair`"
    )


def as_plain(item: object) -> str:
    """Return a single text.

    Raises:
        InputError: `item` is no str.
    """
    if not isinstance(item, str):
        raise InputError(f"{type(item).__name__} is no text: give a str, or a list of them")
    return item


def check_many(texts: object) -> None:
    """Refuse what is neither a text nor several: a mapping would be read by its keys.

    Raises:
        InputError: It is not.
    """
    if isinstance(texts, Mapping | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"{type(texts).__name__} is no text, nor a list of texts")


def is_pair(item: object) -> bool:
    """Say whether this is a tuple of two texts."""
    return isinstance(item, tuple) and len(item) == 2 and all(isinstance(x, str) for x in item)


def at_least_one(value: int, name: str) -> int:
    """Return a count.

    Raises:
        InputError: It is no whole number of at least 1.
    """
    if type(value) is not int or value < 1:
        raise InputError(f"{name} is {value!r}, must be a whole number of at least 1")
    return value


def merge_scores(scores: Floats, long: Long) -> Floats:
    """Return one text's scores from its windows': (windows, C) → (C,)."""
    merged: Floats = scores.max(axis=0) if long is Long.MAX else scores.mean(axis=0)
    return merged
