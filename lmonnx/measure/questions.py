"""Questions with true answers → exact match and F1, as SQuAD counts them."""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import InputError
from lmonnx.measure.decisions import chunks
from lmonnx.measure.judged import Counted
from lmonnx.measure.tables import read_content
from lmonnx.progress import Progress

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FORM = "it is SQuAD JSON: data, paragraphs with a context, qas with a question and answers"


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a context, and every text that answers it; none if it has no answer."""

    question: str
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnswerScores:
    """The share of `n` questions answered exactly, and the mean overlap in words."""

    n: int
    exact_match: float
    f1: float


def read_questions(path: Path) -> list[Question]:
    """Read a SQuAD file, of version 1.1 or 2.

    Raises:
        InputError: The file is missing, of another form, or has no questions.
    """
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: {path.suffix or 'no suffix'} is no file of questions; {_FORM}")
    try:
        stored = json.loads(read_content(path))
        questions = list(_questions(stored))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}); {_FORM}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is of another form; {_FORM}") from error
    if not questions:
        raise InputError(f"{path} has no questions; {_FORM}")
    return questions


def _questions(stored: Any) -> Iterator[Question]:
    for article in stored["data"]:
        for paragraph in article["paragraphs"]:
            for entry in paragraph["qas"]:
                given = () if entry.get("is_impossible") else entry["answers"]
                texts = (entry["question"], paragraph["context"], *(a["text"] for a in given))
                if not all(isinstance(text, str) for text in texts):
                    raise TypeError
                yield Question(texts[0], texts[1], texts[2:])


def normal(text: str) -> str:
    """Return text in small letters without punctuation, articles and needless spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(given: str, true: str) -> float:
    """Return 1 where both are one text but for case, punctuation and articles, else 0."""
    return float(normal(given) == normal(true))


def word_f1(given: str, true: str) -> float:
    """Return 2 · shared words / words of both; of an empty text 1 where both are.

    Source:
        SQuAD's evaluate-v2.0.py, `compute_f1`.
    """
    one, another = normal(given).split(), normal(true).split()
    if not one or not another:
        return float(one == another)
    shared = (Counter(one) & Counter(another)).total()
    return 2 * shared / (len(one) + len(another))


@dataclass(frozen=True, slots=True)
class Answered(Counted):
    """Answers to questions: `worth` is their F1, `exact` their exact match, (N,)."""

    MEASURED: ClassVar[str] = "F1"
    exact: NDArray[np.float64]

    def evaluation(self) -> AnswerScores:
        """Return the means of both figures."""
        return AnswerScores(len(self), float(self.exact.mean()), float(self.worth.mean()))


def judge_answers(model: Any, examples: Sequence[Question], progress: Progress) -> Answered:
    """Answer every question; "" is allowed where the data has questions without an answer."""
    given, sound = [], True
    impossible = any(not example.answers for example in examples)
    for some in chunks(examples, progress):
        pairs = [(example.question, example.context) for example in some]
        answers = model(pairs, handle_impossible_answer=impossible)
        sound &= all(math.isfinite(answer.score) for answer in answers)
        given += [answer.answer for answer in answers]
    exact, f1 = (_best(given, examples, figure) for figure in (exact_match, word_f1))
    return Answered(tuple(given), f1, sound, exact)


def _best(
    given: Sequence[str], examples: Sequence[Question], figure: Callable[[str, str], float]
) -> NDArray[np.float64]:
    pairs = zip(given, examples, strict=True)
    return np.array([max(figure(text, true) for true in _golden(e)) for text, e in pairs])


def _golden(example: Question) -> Sequence[str]:
    """Return what answers; as in SQuAD's own count no answer of articles alone, and "" for none."""
    return [true for true in example.answers if normal(true)] or [""]
