"""What a checkpoint's outputs mean: its task, its labels, and how logits become scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lmonnx.bundle.manifest import Activation, GraphSpec, Head, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.native.seq2seq import SEQ2SEQS
from lmonnx.compiler.export.sentence_transformers import MODULES, SETTINGS
from lmonnx.compiler.export.traced import SEQ2SEQ_TASKS
from lmonnx.errors import StageError, UnsupportedError

_ENDINGS: Mapping[str, Task] = {
    "ForSequenceClassification": Task.TEXT_CLASSIFICATION,
    "ForTokenClassification": Task.TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": Task.QUESTION_ANSWERING,
    "ForMaskedLM": Task.FILL_MASK,
    "ForCausalLM": Task.TEXT_GENERATION,
    "GPT2LMHeadModel": Task.TEXT_GENERATION,
}
_GENERATORS = ("ForConditionalGeneration", "MTModel", "WithLMHeadModel")  # encoder-decoders
_SEQ2SEQ_TASKS = {**{name: family.task for name, family in SEQ2SEQS.items()}, **SEQ2SEQ_TASKS}
_OF_PAIRS = {Task.QUESTION_ANSWERING, Task.ZERO_SHOT_CLASSIFICATION, Task.TEXT_RANKING}
_PROBLEMS = {
    "regression": Activation.NONE,
    "multi_label_classification": Activation.SIGMOID,
    "single_label_classification": Activation.SOFTMAX,
}


def detect_task(checkpoint: Checkpoint, asked: str | None) -> Task:
    """Return the task that was asked for, or the one that the checkpoint is for.

    A folder with modules.json is a sentence-transformers model, whatever class its encoder has:
    a CrossEncoder if its settings say so, else an embedder.

    Raises:
        UnsupportedError: The task is not supported, or cannot be told from config.json.
    """
    known = ", ".join(Task)
    if asked is not None:
        try:
            return Task(asked)
        except ValueError as error:
            raise UnsupportedError(f"the task {asked!r} is not supported, only {known}") from error
    if _settings(checkpoint).get("model_type") == "CrossEncoder":
        return Task.TEXT_RANKING if len(_labels(checkpoint)) == 1 else Task.TEXT_CLASSIFICATION
    if (checkpoint.path / MODULES).is_file():
        return Task.FEATURE_EXTRACTION
    names = _classes(checkpoint)
    for name in names:
        for ending, task in _ENDINGS.items():
            if name.endswith(ending):
                return task
        if name.endswith(_GENERATORS) and checkpoint.architecture in _SEQ2SEQ_TASKS:
            return _SEQ2SEQ_TASKS[checkpoint.architecture]
        if _is_base_model(name, checkpoint.architecture):
            return Task.FEATURE_EXTRACTION
    said = f"config.json names {', '.join(names)}" if names else "config.json names no class"
    raise UnsupportedError(
        f"{said}, which states none of the tasks {known}; --task chooses one, if the weights have "
        "its head"
    )


def _classes(checkpoint: Checkpoint) -> list[str]:
    named = checkpoint.config.get("architectures") or []
    return [name for name in named if isinstance(name, str)]


def _settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    return checkpoint.json_file(SETTINGS) or {}


def _refuse_class(checkpoint: Checkpoint, ending: str, task: Task) -> None:
    """Refuse weights of another class whose tensors have the same names and mean something else."""
    if found := [name for name in _classes(checkpoint) if name.endswith(ending)]:
        raise UnsupportedError(
            f"config.json names {found[0]}, whose head was not trained for {task}; give a "
            f"checkpoint that was, or leave --task out"
        )


def _is_base_model(name: str, model_type: str) -> bool:
    """Say whether a class is its architecture without a head: xlm-roberta's is XLMRobertaModel."""
    return name.lower() == re.sub(r"[-_]", "", model_type).lower() + "model"


def read_head(checkpoint: Checkpoint, task: Task) -> Head | None:
    """Return labels and activation as transformers' pipeline of `task` has them; None without.

    Raises:
        StageError: id2label does not name every class from 0 on.
        UnsupportedError: The labels do not fit the task, or a setting of the scores is unknown.
    """
    return _HEADS[task](checkpoint)


def _classifier(checkpoint: Checkpoint) -> Head:
    _refuse_class(checkpoint, "ForTokenClassification", Task.TEXT_CLASSIFICATION)
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


def _token_classifier(checkpoint: Checkpoint) -> Head:
    _refuse_class(checkpoint, "ForSequenceClassification", Task.TOKEN_CLASSIFICATION)
    return Head(_labels(checkpoint), Activation.SOFTMAX)


def _zero_shot(checkpoint: Checkpoint) -> Head:
    labels = _labels(checkpoint)
    if not any(label.lower().startswith("entail") for label in labels):
        raise UnsupportedError(
            f"config.json names the labels {', '.join(labels):.200}, none of which starts with "
            "'entail'; zero-shot-classification needs a model of natural language inference"
        )
    return Head(labels, Activation.SOFTMAX)


def _ranker(checkpoint: Checkpoint) -> Head:
    """Return the label and activation of sentence-transformers' CrossEncoder."""
    labels = _labels(checkpoint)
    if len(labels) != 1:
        raise UnsupportedError(
            f"config.json names {len(labels)} labels, text-ranking needs one, the score; "
            "try --task text-classification"
        )
    nested = checkpoint.config.get("sentence_transformers")  # before 5.7; since then a file
    stated = nested.get("activation_fn") if isinstance(nested, dict) else None
    stated = _settings(checkpoint).get("activation_fn") or stated
    name = stated or checkpoint.config.get("sbert_ce_default_activation_function") or "Sigmoid"
    last = str(name).rpartition(".")[2]
    if last not in _RANKER_ACTIVATIONS:
        raise UnsupportedError(
            f"the cross-encoder's activation is {name!r:.100}, must end in one of "
            f"{', '.join(_RANKER_ACTIVATIONS)}"
        )
    return Head(labels, _RANKER_ACTIVATIONS[last])


def _span(checkpoint: Checkpoint) -> None:
    count = len(_labels(checkpoint))
    if count != 2:
        raise UnsupportedError(
            f"config.json names {count} labels, question-answering needs the two of an answer's "
            "start and end; remove id2label and num_labels if the weights have two"
        )


def _no_labels(checkpoint: Checkpoint) -> None:
    del checkpoint


_RANKER_ACTIVATIONS = {"Sigmoid": Activation.SIGMOID, "Identity": Activation.NONE}
_HEADS: Mapping[Task, Callable[[Checkpoint], Head | None]] = {
    Task.TEXT_CLASSIFICATION: _classifier,
    Task.ZERO_SHOT_CLASSIFICATION: _zero_shot,
    Task.TEXT_RANKING: _ranker,
    Task.TOKEN_CLASSIFICATION: _token_classifier,
    Task.QUESTION_ANSWERING: _span,
    Task.FILL_MASK: _no_labels,
    Task.FEATURE_EXTRACTION: _no_labels,
    Task.TEXT_GENERATION: _no_labels,
    Task.TRANSLATION: _no_labels,
    Task.SUMMARIZATION: _no_labels,
    Task.TEXT_TO_TEXT: _no_labels,
}


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


def reads_typed_pairs(task: Task, graphs: Mapping[str, GraphSpec]) -> bool:
    """Say whether the task reads pairs of texts and nothing else, in graphs that take types."""
    named = {each.name for graph in graphs.values() for each in graph.inputs}
    return task in _OF_PAIRS and "token_type_ids" in named


def check_logits(graph: GraphSpec, classes: int) -> None:
    """Refuse a graph that gives another number of logits than there are labels.

    Raises:
        StageError: It does.
    """
    shape = next(output.shape for output in graph.outputs if output.name == "logits")
    logits = shape[-1] if shape else 0
    if isinstance(logits, int) and logits != classes:
        raise StageError(f"the graph gives {logits} logits, config.json names {classes}")
