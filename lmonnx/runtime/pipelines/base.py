"""Encode, batch, run, decode: the loop that every single-graph task shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.batch import MAX_TOKENS, batches
from lmonnx.runtime.kernels import int8_is_exact
from lmonnx.runtime.session import Session, SessionConfig
from lmonnx.runtime.tokenizer import Long, Text, Tokenizer

LOOK_AHEAD = 2048  # texts whose lengths are sorted together


class Pipeline:
    """A loaded bundle: its tokenizer and the session of its one graph; safe to share by threads."""

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str = Long.WINDOW
    ) -> None:
        text = bundle.manifest.text
        graph = bundle.manifest.graphs.get("model")
        if graph is None:
            raise BundleError(f"{bundle.path} has no graph called model; export it again")
        self.bundle = bundle
        self.tokenizer = Tokenizer(bundle.file(text.source.file), text)
        # No CPU is known whose kernel saturates on 7-bit weights; one that does is made to widen.
        precise = "MatMulIntegerToFloat" in graph.operators and not int8_is_exact()
        self.session = Session(
            bundle.file(graph.file), graph, config or SessionConfig(), precise=precise
        )
        self._long = long_policy(long)
        self._spec = text.source

    def outputs(
        self,
        texts: Sequence[Text],
        name: str,
        *,
        long: Long | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> Iterator[NDArray[Any]]:
        """Yield each text's output rows, one a window, in the order of `texts`.

        Args:
            texts: The request; a pair is a tuple of two.
            name: The graph's output.
            long: What to do with long text; None is the pipeline's own rule.
            max_tokens: B × S of a batch.
        """
        for start in range(0, len(texts), LOOK_AHEAD):
            chunk = texts[start : start + LOOK_AHEAD]
            encodings = self.tokenizer.encode(chunk, long or self._long, first=start)
            rows: list[NDArray[Any]] = [np.empty(0)] * len(encodings)
            for batch in batches(
                encodings, self._spec, self.session.inputs, max_tokens=max_tokens
            ):  # ids → (B, S)
                outputs = self.session.run(batch.inputs)[name]  # (B, …)
                if outputs.shape[:1] != (len(batch.places),):
                    raise BundleError(f"{self.bundle.path}: {name} has not one row a text")
                for place, row in zip(batch.places, outputs, strict=True):
                    rows[place] = row
            windows = zip(encodings, rows, strict=True)
            for _, group in groupby(windows, key=lambda pair: pair[0].row):
                yield np.stack([row for _, row in group])


def long_policy(value: Long | str) -> Long:
    """Return the rule for long text that `value` names.

    Raises:
        InputError: There is no such rule.
    """
    try:
        return Long(value)
    except ValueError as error:
        raise InputError(f"long is {value!r}, must be one of {', '.join(Long)}") from error
