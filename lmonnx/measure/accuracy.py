"""A loaded bundle and labelled data → how often it is right; what the data is, by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmonnx.bundle.manifest import Task
from lmonnx.errors import BundleError, InputError
from lmonnx.measure.classes import Evaluation, judge_labels
from lmonnx.measure.datasets import Example, read_examples
from lmonnx.measure.entities import EntityScores, judge_entities, read_tagged
from lmonnx.measure.judged import Correlations, Judged
from lmonnx.measure.masks import MaskScores, judge_masks, read_lines
from lmonnx.measure.questions import AnswerScores, judge_answers, read_questions
from lmonnx.measure.references import read_rewritings
from lmonnx.measure.similarity import judge_similarities
from lmonnx.measure.written import TASKS, TextScores, judge_texts
from lmonnx.progress import Progress, silent
from lmonnx.runtime.pipelines.base import Pipeline

__all__ = ["Columns", "Evaluation", "Scores", "evaluate", "judge", "read_data"]

Scores = Evaluation | EntityScores | AnswerScores | Correlations | MaskScores | TextScores


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table: an index from 0, or a name; `text_pair` is None for single texts."""

    text: str = "0"
    label: str = "1"
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """What a task is judged by: how its data is read, and how answers are set beside it."""

    read: Callable[[Path, Columns], Sequence[Any]]
    judge: Callable[[Any, Any, Progress], Judged]


def _labelled(path: Path, columns: Columns) -> Sequence[Example]:
    text, label, text_pair = columns.text, columns.label, columns.text_pair
    return read_examples(path, text=text, label=label, text_pair=text_pair)


def _pairs(path: Path, columns: Columns) -> Sequence[Example]:
    if columns.text_pair is None:
        raise InputError(
            f"{path} must have two texts and a score; name the columns with --text, --text-pair "
            "and --label"
        )
    return _labelled(path, columns)


def _tagged(path: Path, _: Columns) -> Sequence[Any]:
    return read_tagged(path)


def _questions(path: Path, _: Columns) -> Sequence[Any]:
    return read_questions(path)


def _lines(path: Path, columns: Columns) -> Sequence[Any]:
    return read_lines(path, columns.text)


def _rewritings(path: Path, columns: Columns) -> Sequence[Any]:
    return read_rewritings(path, text=columns.text, label=columns.label)


DATA: Mapping[Task, Data] = {
    Task.TEXT_CLASSIFICATION: Data(_labelled, judge_labels),
    Task.ZERO_SHOT_CLASSIFICATION: Data(_labelled, judge_labels),
    Task.TEXT_RANKING: Data(_pairs, judge_labels),
    Task.TOKEN_CLASSIFICATION: Data(_tagged, judge_entities),
    Task.QUESTION_ANSWERING: Data(_questions, judge_answers),
    Task.FEATURE_EXTRACTION: Data(_pairs, judge_similarities),
    Task.FILL_MASK: Data(_lines, judge_masks),
    **dict.fromkeys(TASKS, Data(_rewritings, judge_texts)),
}


def read_data(path: Path, task: Task, columns: Columns) -> Sequence[Any]:
    """Read the labelled data of a task.

    Text and its label in a .tsv, .csv or .jsonl; two texts and a score for ranking and
    embeddings; tagged words in a CoNLL file; SQuAD JSON for questions; plain lines for masks;
    texts and what they should become for translation and the like.

    Raises:
        InputError: The file is missing, of another kind, or wrong; file and line are named.
    """
    return DATA[task].read(path, columns)


def judge(model: Pipeline[Any], examples: Sequence[Any], *, progress: Progress = silent) -> Judged:
    """Answer every example and set the answers beside the truth.

    Raises:
        InputError: There are no examples, or one does not fit the model.
    """
    if not examples:
        raise InputError("there are no examples to evaluate; give at least one")
    return DATA[model.bundle.manifest.task].judge(model, examples, progress)


def evaluate(
    model: Pipeline[Any], examples: Sequence[Any], *, progress: Progress = silent
) -> Scores:
    """Answer every example and compare with the truth.

    Raises:
        InputError: There are no examples, or one does not fit the model.
        BundleError: An output is NaN or infinite, which no figure would show.
    """
    judged = judge(model, examples, progress=progress)
    if not judged.is_sound:
        raise BundleError(
            "an output of the bundle is NaN or infinite, so no figure says what it is worth; "
            "export or quantize it again"
        )
    scores: Scores = judged.evaluation()
    return scores
