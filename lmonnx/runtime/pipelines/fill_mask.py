"""Text with masks → the likeliest tokens, as transformers' fill-mask pipeline gives them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Side
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.batch import Batch, Ints
from lmonnx.runtime.pipelines.base import (
    Outputs,
    Pipeline,
    as_plain,
    at_least_one,
    check_many,
    long_policy,
)
from lmonnx.runtime.session import MAX_TOKENS, SessionConfig
from lmonnx.runtime.tokenizer import WHOLE, Encoding, Long, Text

# A run of the graph gives B × S × V logits: a large vocabulary takes fewer tokens at once.
MOST_LOGITS = 2**26
RAW_TEXTS = 16  # whose (masks, V) rows are held at once


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fill:
    """A token for a mask: its probability, id and text, and the whole text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is kept of one mask: token ids, the likeliest first, and their probabilities."""

    tokens: Ints
    scores: NDArray[np.float64]


class FillMasker(Pipeline[NDArray[np.float32]]):
    """Fill the masks of texts; one instance serves any number of threads."""

    LONG = Long.TRUNCATE

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        mask = bundle.manifest.text.source.mask_token
        if mask is None:
            raise BundleError(
                f"{bundle.path}: the tokenizer has no mask token; fill-mask needs one"
            )
        super().__init__(bundle, _narrowed(bundle, config or SessionConfig()), long=long)
        index = self.tokenizer.id_of(mask)
        if index is None:
            raise BundleError(f"{bundle.path}: the vocabulary lacks {mask!r}; export it again")
        self.mask_token = mask
        self._mask_id = index
        self._rule(None)

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is an Iterable[str] too
        self,
        texts: str,
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        long: Long | str | None = None,
    ) -> list[Fill] | list[list[Fill]]: ...

    @overload
    def __call__(
        self,
        texts: Iterable[str],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        long: Long | str | None = None,
    ) -> list[list[Fill] | list[list[Fill]]]: ...

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        long: Long | str | None = None,
    ) -> list[Fill] | list[list[Fill]] | list[list[Fill] | list[list[Fill]]]:
        """Answer one text, or many in their order; several masks in a text give a list each.

        Args:
            texts: A text with `mask_token` in it, or a list of these.
            top_k: How many tokens to give, at most as many as there are.
            targets: Only these tokens, their probabilities still among all; of one that the
                vocabulary lacks its first piece is taken.
            long: "truncate" or "error", for text over the model's length; None is what `load`
                was told.

        Raises:
            InputError: A text is no text or keeps no mask, or an option is wrong.
        """
        one = isinstance(texts, str)
        check_many(texts)
        asked = [texts] if isinstance(texts, str) else texts
        answers = list(self.stream(asked, top_k=top_k, targets=targets, long=long))
        return answers[0] if one else answers

    def stream(
        self,
        texts: Iterable[str],
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        long: Long | str | None = None,
    ) -> Iterator[list[Fill] | list[list[Fill]]]:
        """Answer an endless input in its order, in bounded memory: no logits are kept."""
        at_least_one(top_k, "top_k")
        ids = None if targets is None else self._target_ids(targets)
        reduce = partial(self._candidates, top_k=top_k, targets=ids)
        plain = map(as_plain, texts)
        for (window,) in self.windows(plain, long=self._rule(long), reduce=reduce):
            masks = self._masks(window.encoding)
            found: Any = window.row
            fills = [
                self._fills(window.encoding.ids, mask, candidates, alone=len(masks) == 1)
                for mask, candidates in zip(masks, found, strict=True)
            ]
            yield fills[0] if len(fills) == 1 else fills

    def raw(
        self, texts: Iterable[Text], *, long: Long | str | None = None
    ) -> Iterator[NDArray[np.float32]]:
        for encodings in self._encoded(map(as_plain, texts), self._rule(long), WHOLE):
            for start in range(0, len(encodings), RAW_TEXTS):
                some = encodings[start : start + RAW_TEXTS]
                for encoding, rows in zip(some, self._run(some, self.reduce), strict=True):
                    self._masks(encoding)
                    yield rows  # (masks, V)

    def reduce(self, outputs: Outputs, batch: Batch) -> Sequence[NDArray[np.float32]]:
        logits = outputs["logits"]  # (B, S, V)
        return [
            logits[text, masks].astype(np.float32) for text, masks in self._places(batch, logits)
        ]

    def _candidates(
        self, outputs: Outputs, batch: Batch, *, top_k: int, targets: Ints | None
    ) -> list[list[Candidates]]:
        """Return what is kept of each mask of each text, so that no row of V logits is."""
        logits = outputs["logits"]  # (B, S, V)
        if targets is not None and targets[-1] >= logits.shape[-1]:
            raise InputError(f"targets has a token that is none of the {logits.shape[-1]} logits")
        return [
            [choose_tokens(logits[text, mask], top_k, targets) for mask in masks]
            for text, masks in self._places(batch, logits)
        ]

    def _places(self, batch: Batch, logits: NDArray[Any]) -> Iterator[tuple[int, list[int]]]:
        """Yield each text's row in the batch, and the columns of its masks."""
        if logits.ndim != 3 or logits.dtype.kind != "f":
            raise BundleError(f"{self.bundle.path}: the graph gives no logits a token")
        for text, encoding in enumerate(batch.encodings):
            left = self._spec.padding_side is Side.LEFT
            start = logits.shape[1] - len(encoding.ids) if left else 0
            yield text, [start + mask for mask in self._found(encoding)]

    def _found(self, encoding: Encoding) -> list[int]:
        return [at for at, token in enumerate(encoding.ids) if token == self._mask_id]

    def _masks(self, encoding: Encoding) -> list[int]:
        """Return where the masks of a text are."""
        masks = self._found(encoding)
        if not masks:
            limit = self.bundle.manifest.text.max_length
            raise InputError(
                f"text {encoding.row} has no {self.mask_token} among the {limit} tokens that the "
                "model takes; put one where a token is wanted"
            )
        return masks

    def _fills(self, ids: list[int], mask: int, found: Candidates, *, alone: bool) -> list[Fill]:
        fills = []
        for token, score in zip(found.tokens.tolist(), found.scores.tolist(), strict=True):
            filled = [*ids[:mask], token, *ids[mask + 1 :]]
            kept = [index for index in filled if index != self._spec.pad_id]
            # Other masks are special tokens too: beside them all of these are shown.
            sequence = self.tokenizer.decode(kept, skip_special=alone)
            fills.append(Fill(score, token, self.tokenizer.decode([token]), sequence))
        return fills

    def _target_ids(self, targets: str | Sequence[str]) -> Ints:
        """Return the ids of targets, ascending and each once."""
        words = [targets] if isinstance(targets, str) else targets
        if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
            raise InputError("targets must be a str or a list of them")
        ids = {index for word in words if (index := self._target_id(word)) is not None}
        if not ids:
            raise InputError("targets names no token; give at least one word")
        return np.array(sorted(ids), np.int64)

    def _target_id(self, word: str) -> int | None:
        """Return a word's id, or that of the piece that stays of it when it is cut to one."""
        try:
            (encoding,) = self.tokenizer.encode([word], Long.TRUNCATE, spans=True)
        except InputError as error:
            raise InputError(f"targets: {error}") from error
        if (whole := self.tokenizer.id_of(word)) is not None:
            return whole
        parts = encoding.spans.parts if encoding.spans else []
        pieces = [i for i, part in zip(encoding.ids, parts, strict=True) if part is not None]
        if not pieces:
            return None
        piece = pieces[-1 if self._spec.truncation_side is Side.LEFT else 0]
        _log.warning(
            "the target %r is no token; %r stands for it", word, self.tokenizer.token(piece)
        )
        return piece

    def _rule(self, long: Long | str | None) -> Long:
        rule = self._long if long is None else long_policy(long)
        if rule not in (Long.TRUNCATE, Long.ERROR):
            raise InputError(f"long is {rule.value!r}, for fill-mask it must be truncate or error")
        return rule


def choose_tokens(row: NDArray[Any], top_k: int, targets: Ints | None = None) -> Candidates:
    """Return the `top_k` likeliest tokens of a row of logits; of equal ones the lowest id first.

    Args:
        row: (V,).
        top_k: How many.
        targets: Ascending ids to choose among, None for all; the softmax is over all anyway.
    """
    logits = row.astype(np.float32, copy=False)  # float64 takes ten times as long for 250,000
    highest = logits.max()
    total = np.exp(logits - highest).sum(dtype=np.float64)
    among = logits if targets is None else logits[targets]
    best = highest_first(among, top_k)
    scores = np.exp((among[best] - highest).astype(np.float64)) / total
    return Candidates(best if targets is None else targets[best], scores)


def highest_first(values: NDArray[Any], count: int) -> Ints:
    """Return the places of the highest values, highest first; of equal ones the first first."""
    places = np.arange(len(values))
    if count < len(values):
        least = np.partition(values, -count)[-count]
        places = np.flatnonzero(values >= least)
    best: Ints = places[np.argsort(-values[places], kind="stable")[:count]]
    return best


def _narrowed(bundle: Bundle, config: SessionConfig) -> SessionConfig:
    """Return a config whose batches give at most MOST_LOGITS logits."""
    graph = bundle.manifest.graphs.get("model")
    shapes = [o.shape for o in graph.outputs if o.name == "logits" and o.shape] if graph else []
    wide = shapes[0][-1] if shapes else 0
    if not isinstance(wide, int) or wide < 1:
        return config
    return replace(
        config, max_tokens=max(1, min(config.max_tokens or MAX_TOKENS, MOST_LOGITS // wide))
    )
