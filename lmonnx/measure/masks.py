"""Plain text → how often a masked word is filled in as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lmonnx.errors import InputError
from lmonnx.measure.datasets import read_examples, read_texts
from lmonnx.measure.decisions import answer_all, is_finite
from lmonnx.measure.judged import Counted
from lmonnx.measure.sentences import mask_of
from lmonnx.measure.tables import KINDS
from lmonnx.progress import Progress
from lmonnx.runtime.tokenizer import Encoding, Long


@dataclass(frozen=True, slots=True)
class MaskScores:
    """The share of `n` masked words that were filled in as they were."""

    n: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Filled(Counted):
    """The token put in place of each masked word."""

    MEASURED: ClassVar[str] = "accuracy of the masked word"

    def evaluation(self) -> MaskScores:
        """Return the accuracy."""
        return MaskScores(len(self), float(self.worth.mean()))


def read_lines(path: Path, text: str) -> list[str]:
    """Read texts: a column of a table, or else one a line.

    Raises:
        InputError: The file cannot be read, is not UTF-8, or has no text.
    """
    if path.suffix.lower() in KINDS:
        return [str(example.text) for example in read_examples(path, text=text, label=None)]
    try:
        with path.open("rb") as lines:
            texts = [line for line in read_texts(lines, str(path)) if line.strip()]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    if not texts:
        raise InputError(f"{path} has no text; write one a line")
    return texts


def judge_masks(model: Any, examples: Sequence[str], progress: Progress) -> Filled:
    """Mask one word of each text, a token of the vocabulary, at a place drawn by seed.

    Raises:
        InputError: No text has such a word.
    """
    masked = list(_masked(model, examples))
    if not masked:
        raise InputError("no text has a word that is one token; give other text")
    texts, tokens = zip(*masked, strict=True)
    answers = answer_all(model, texts, long=Long.TRUNCATE, progress=progress)
    given = tuple(int(raw[0].argmax()) for raw in answers)
    return Filled(given, np.equal(given, tokens).astype(np.float64), is_finite(answers))


def _masked(model: Any, texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each text with a mask, and the id of the token that was there."""
    rng, mask = np.random.default_rng(0), mask_of(model.bundle.manifest)
    free = [text for text in texts if mask not in text]  # else there are two
    encodings = model.tokenizer.encode(free, Long.TRUNCATE, spans=True)
    for text, encoding in zip(free, encodings, strict=True):
        places = _whole_words(encoding, text)
        if places:
            place = places[rng.integers(len(places))]
            start, end = encoding.spans.offsets[place]
            start = end - len(text[start:end].lstrip())
            yield text[:start] + mask + text[end:], encoding.ids[place]


def _whole_words(encoding: Encoding, text: str) -> list[int]:
    """Return the tokens that are a whole word of letters or digits."""
    spans = encoding.spans
    if spans is None:
        return []
    sizes = Counter(spans.words)
    last = spans.words[-2:]  # of a text that was cut it may go on
    return [
        place
        for place, (part, word) in enumerate(zip(spans.parts, spans.words, strict=True))
        if part is not None
        and sizes[word] == 1
        and (word not in last or len(encoding.ids) < 3)
        and text[slice(*spans.offsets[place])].strip().isalnum()
    ]
