"""The answers to a text's parts → its answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from lmonnx.errors import InputError
from lmonnx.runtime.generate.request import Completion
from lmonnx.runtime.generate.stopping import LENGTH, STOP
from lmonnx.runtime.pipelines.sentences import joint
from lmonnx.runtime.pipelines.source_parts import Part, Refused


def joined(
    parts: Sequence[Part], found: Sequence[Sequence[Completion]]
) -> Iterator[list[Completion] | Refused]:
    """Yield each text's answers: its parts' first ones joined, their second ones, and so on.

    A text with a part at fault has none.

    Args:
        parts: In the order of their rows.
        found: The answers to each, best first.
    """
    pairs = zip(parts, found, strict=True)
    for row, group in groupby(pairs, key=lambda pair: pair[0].row):
        of_text, answers = zip(*group, strict=True)
        fault = next((part.fault for part in of_text if part.fault), None)
        if fault is not None:
            yield Refused(row, fault)
        elif len(of_text) == 1:
            yield list(answers[0])
        else:
            count = max(map(len, answers))  # fewer where no other was possible
            yield [
                _join(of_text, [each[min(i, len(each) - 1)] for each in answers])
                for i in range(count)
            ]


def required(found: list[Completion] | Refused) -> list[Completion]:
    """Return a text's answers.

    Raises:
        InputError: It has none.
    """
    if isinstance(found, Refused):
        raise InputError(str(found))
    return found


def _join(parts: Sequence[Part], answers: Sequence[Completion]) -> Completion:
    text = ""
    after: str | None = ""
    for part, answer in zip(parts, answers, strict=True):
        text += (joint(text, answer.text) if after is None else after) + answer.text
        after = part.after
    tokens = sum(answer.completion_tokens for answer in answers)
    scores = [(a.score, a.completion_tokens) for a in answers if a.score is not None]
    reasons = {answer.finish_reason for answer in answers}
    return Completion(
        text + (after or ""),
        tuple(token for answer in answers for token in answer.token_ids),
        LENGTH if LENGTH in reasons else STOP,
        sum(answer.prompt_tokens for answer in answers),
        tokens,
        score=sum(score * count for score, count in scores) / max(1, tokens) if scores else None,
    )
