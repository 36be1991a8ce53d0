"""What a checkpoint's outputs mean: its task, its labels, and how logits become scores."""

from __future__ import annotations

from collections.abc import Mapping

from lmonnx.bundle.manifest import Activation, Head, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.errors import StageError, UnsupportedError

_ENDINGS: Mapping[str, Task] = {"ForSequenceClassification": Task.TEXT_CLASSIFICATION}
_PROBLEMS = {
    "regression": Activation.NONE,
    "multi_label_classification": Activation.SIGMOID,
    "single_label_classification": Activation.SOFTMAX,
}


def detect_task(checkpoint: Checkpoint, asked: str | None) -> Task:
    """Return the task that was asked for, or the one that the checkpoint's class is for.

    Raises:
        UnsupportedError: The task is not supported, or cannot be told from config.json.
    """
    known = ", ".join(Task)
    if asked is not None:
        try:
            return Task(asked)
        except ValueError as error:
            raise UnsupportedError(f"the task {asked!r} is not supported, only {known}") from error
    classes = checkpoint.config.get("architectures") or []
    names = [name for name in classes if isinstance(name, str)]
    for name in names:
        for ending, task in _ENDINGS.items():
            if name.endswith(ending):
                return task
    said = f"config.json names {', '.join(names)}" if names else "config.json names no class"
    raise UnsupportedError(f"{said}, which is for no supported task ({known}); pass --task")


def read_head(checkpoint: Checkpoint) -> Head:
    """Return labels and activation as transformers' text-classification pipeline has them.

    Raises:
        StageError: id2label does not name every class from 0 on.
        UnsupportedError: problem_type is unknown.
    """
    labels = _labels(checkpoint)
    problem = checkpoint.config.get("problem_type")
    if problem is None:
        return Head(labels, Activation.SIGMOID if len(labels) == 1 else Activation.SOFTMAX)
    if problem not in _PROBLEMS:
        raise UnsupportedError(
            f"config.json: problem_type is {problem!r}, must be one of {', '.join(_PROBLEMS)}"
        )
    # One label is never a choice between labels: transformers takes the sigmoid.
    single = len(labels) == 1 and problem == "single_label_classification"
    return Head(labels, Activation.SIGMOID if single else _PROBLEMS[problem])


def _labels(checkpoint: Checkpoint) -> tuple[str, ...]:
    named = checkpoint.config.get("id2label")
    if named is None:
        count = checkpoint.config.get("num_labels", 2)
        if type(count) is not int or not 0 < count < 10**6:
            raise StageError(f"config.json: num_labels is {count!r}, must be a positive number")
        return tuple(f"LABEL_{index}" for index in range(count))
    if not isinstance(named, dict) or not named:
        raise StageError("config.json: id2label names no label")
    try:
        by_id = {int(index): str(label) for index, label in named.items()}
        return tuple(by_id[index] for index in range(len(by_id)))
    except (ValueError, KeyError) as error:
        raise StageError("config.json: id2label must name every class from 0 on") from error
