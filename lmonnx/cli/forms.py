"""What `run` does for each task: which options it takes, how it asks, how an answer looks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from lmonnx.bundle.fields import encode
from lmonnx.bundle.manifest import Task
from lmonnx.cli import completion, rewriting
from lmonnx.cli.pairing import beside, paired
from lmonnx.runtime.tokenizer import Text

Given = Mapping[str, Any]
Row = tuple[str, ...]
Shown = tuple[Any, list[Row]]  # a line of JSON, and rows of cells
_VALUES = 8  # of a vector, in a table


@dataclass(frozen=True, slots=True)
class Form:
    """A task's columns, the options it takes, and how a model is asked: texts → what is shown.

    `at_once` is how many answers are printed together; `plain` rows are printed as they are,
    whoever reads.
    """

    columns: tuple[str, ...]
    options: frozenset[str]
    ask: Callable[[Any, Iterator[str], Given], Iterator[Shown]]
    at_once: int = 512
    plain: bool = False


def _shown(text: Text) -> str:
    return text if isinstance(text, str) else " | ".join(text)


def _score(value: float) -> str:
    return f"{value:.4f}"


def _classify(model: Any, texts: Iterator[str], given: Given) -> Iterator[Shown]:
    pairs, top_k = given.get("text_pair", ()), given.get("top_k", 1)
    items: Iterable[Text] = paired(texts, pairs, "--text-pair") if pairs else texts
    for text, found in beside(items, lambda read: model.stream(read, top_k=top_k)):
        line = {"label": found.label, "score": found.score, "windows": found.windows}
        whole = line if top_k == 1 else {**line, "labels": encode(found.labels)}
        yield whole, [(x.label, _score(x.score), _shown(text)) for x in found.labels]


def _find_entities(model: Any, texts: Iterator[str], given: Given) -> Iterator[Shown]:
    for text, found in beside(texts, lambda read: model.stream(read, **given)):
        names = [getattr(x, "entity_group", None) or x.entity for x in found]
        rows: list[Row] = [
            (name, _score(x.score), x.word, f"{x.start}-{x.end}", _shown(text))
            for name, x in zip(names, found, strict=True)
        ]
        yield encode(found), rows


def _answer_questions(model: Any, texts: Iterator[str], given: Given) -> Iterator[Shown]:
    options = dict(given)
    questions, contexts = options.pop("question", ()), options.pop("context", ())
    if not questions:
        raise click.UsageError("give --question, and a context with --context, TEXT or --file")
    every = (text for source in (contexts, texts) for text in source)
    items = ((question, context) for context, question in paired(every, questions, "--question"))
    for (question, _), found in beside(items, lambda read: model.stream(read, **options)):
        several = found if isinstance(found, list) else [found]
        rows: list[Row] = [
            (x.answer, _score(x.score), f"{x.start}-{x.end}", question) for x in several
        ]
        yield encode(found), rows


def _fill_masks(model: Any, texts: Iterator[str], given: Given) -> Iterator[Shown]:
    for _, found in beside(texts, lambda read: model.stream(read, **given)):
        masks = found if found and isinstance(found[0], list) else [found]
        rows: list[Row] = [
            (x.token_str, _score(x.score), x.sequence) for mask in masks for x in mask
        ]
        yield encode(found), rows


def _choose_labels(model: Any, texts: Iterator[str], given: Given) -> Iterator[Shown]:
    options = dict(given)
    labels = [label.strip() for label in options.pop("candidate_labels", "").split(",")]
    labels = [label for label in labels if label]
    if not labels:
        raise click.UsageError("give --candidate-labels, with commas between them")
    for text, found in beside(texts, lambda read: model.stream(read, labels, **options)):
        pairs = zip(found.labels, found.scores, strict=True)
        yield encode(found), [(label, _score(score), _shown(text)) for label, score in pairs]


def _rank(model: Any, texts: Iterator[str], given: Given) -> Iterator[Shown]:
    options = dict(given)
    query, documents = options.pop("query", None), list(texts)
    if query is None:
        raise click.UsageError("give --query, and documents as TEXT or --file")
    for found in model(query, documents, **options):
        yield encode(found), [(str(found.index), _score(found.score), documents[found.index])]


def _embed(model: Any, texts: Iterator[str], given: Given) -> Iterator[Shown]:
    # The range of each dimension, which these two are of, is known only from all vectors.
    whole = given.get("precision") in {"int8", "uint8"}

    def answer(read: Iterator[str]) -> Iterable[Any]:
        return model(list(read), **given) if whole else model.stream(read, **given)  # type: ignore[no-any-return]

    for text, vector in beside(texts, answer):
        more = " …" if len(vector) > _VALUES else ""
        start = " ".join(f"{x:.4g}" for x in vector[:_VALUES])
        yield vector.tolist(), [(start + more, text)]


_REWRITING = Form(("score", "text"), rewriting.OPTIONS, rewriting.rewrite, plain=True)
FORMS: Mapping[Task, Form] = {
    Task.TEXT_CLASSIFICATION: Form(
        ("label", "score", "text"), frozenset({"text_pair", "top_k"}), _classify
    ),
    Task.TOKEN_CLASSIFICATION: Form(
        ("entity", "score", "word", "at", "text"),
        frozenset({"aggregation_strategy", "stride"}),
        _find_entities,
    ),
    Task.QUESTION_ANSWERING: Form(
        ("answer", "score", "at", "question"),
        frozenset(
            {
                "question",
                "context",
                "top_k",
                "doc_stride",
                "max_answer_len",
                "handle_impossible_answer",
            }
        ),
        _answer_questions,
    ),
    Task.FILL_MASK: Form(("token", "score", "text"), frozenset({"top_k", "targets"}), _fill_masks),
    Task.ZERO_SHOT_CLASSIFICATION: Form(
        ("label", "score", "text"),
        frozenset({"candidate_labels", "hypothesis_template", "multi_label"}),
        _choose_labels,
    ),
    Task.FEATURE_EXTRACTION: Form(
        ("vector", "text"), frozenset({"prompt_name", "dimensions", "precision"}), _embed
    ),
    Task.TEXT_RANKING: Form(("index", "score", "text"), frozenset({"query", "top_k"}), _rank),
    Task.TEXT_GENERATION: Form(
        ("finish", "prompt", "text"), completion.OPTIONS, completion.complete, at_once=1
    ),
    Task.TRANSLATION: _REWRITING,
    Task.SUMMARIZATION: _REWRITING,
    Task.TEXT_TO_TEXT: _REWRITING,
}
