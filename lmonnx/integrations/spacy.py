"""A spaCy component that fills a `Doc` from a bundle: entities, categories or a vector.

>>> nlp = spacy.blank("en")
>>> nlp.add_pipe("lmonnx", config={"bundle": "ner-int8"})
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import filter_spans

import lmonnx
from lmonnx.bundle.manifest import Task
from lmonnx.errors import InputError, UnsupportedError

_SETTINGS: dict[str, Any] = {
    "threads": None,
    "long": None,
    "aggregation_strategy": "simple",
    "candidate_labels": None,
    "hypothesis_template": "This example is {}.",
    "multi_label": False,
}


class Component:
    """Answers docs by one bundle; what is filled depends on its task."""

    def __init__(self, model: Any, task: Task, options: Mapping[str, Any]) -> None:
        if task not in _FILLS:
            known = ", ".join(sorted(_FILLS))
            raise UnsupportedError(f"spaCy docs are filled by {known}, not by {task}")
        self._model = model
        self._fill = _FILLS[task]
        self._options = {name: options[name] for name in _OPTIONS[task]}

    def __call__(self, doc: Doc) -> Doc:
        """Fill one doc."""
        return next(self.pipe([doc]))

    def pipe(self, docs: Iterable[Doc], *, batch_size: int | None = None) -> Iterator[Doc]:
        """Fill docs in their order, in bounded memory; the bundle's own batching is used.

        Args:
            docs: May be endless; some thousand are read ahead.
            batch_size: spaCy's, not needed here.
        """
        del batch_size
        held: deque[Doc] = deque()

        def texts() -> Iterator[str]:
            for doc in docs:
                held.append(doc)
                yield doc.text

        for answer in self._model.stream(texts(), **self._options):
            doc = held.popleft()
            self._fill(doc, answer, self._model)
            yield doc


def _fill_entities(doc: Doc, answer: Sequence[Any], _: Any) -> None:
    """Set `ents`: whole spaCy tokens; entities that were there stay where none overlaps."""
    spans = [
        doc.char_span(x.start, x.end, label=_label(x), alignment_mode="expand") for x in answer
    ]
    found = filter_spans([span for span in spans if span is not None and span.text.strip()])
    taken = {token.i for span in found for token in span}
    kept: list[Span] = [span for span in doc.ents if taken.isdisjoint(token.i for token in span)]
    doc.ents = [*found, *kept]


def _label(entity: Any) -> str:
    return str(getattr(entity, "entity_group", None) or entity.entity)


def _fill_categories(doc: Doc, answer: Any, _: Any) -> None:
    doc.cats |= {label.label: label.score for label in answer.labels}


def _fill_chosen(doc: Doc, answer: Any, _: Any) -> None:
    doc.cats |= dict(zip(answer.labels, answer.scores, strict=True))


def _fill_vector(doc: Doc, answer: Any, model: Any) -> None:
    doc.vector = answer
    doc.user_hooks["has_vector"] = lambda _: True
    doc.user_hooks["similarity"] = lambda one, other: float(
        model.similarity(one.vector[None], other.vector[None])[0, 0]
    )


_FILLS: Mapping[Task, Callable[[Doc, Any, Any], None]] = {
    Task.TOKEN_CLASSIFICATION: _fill_entities,
    Task.TEXT_CLASSIFICATION: _fill_categories,
    Task.ZERO_SHOT_CLASSIFICATION: _fill_chosen,
    Task.FEATURE_EXTRACTION: _fill_vector,
}
_OPTIONS: Mapping[Task, tuple[str, ...]] = {
    Task.TOKEN_CLASSIFICATION: ("aggregation_strategy",),
    Task.TEXT_CLASSIFICATION: ("top_k",),
    Task.ZERO_SHOT_CLASSIFICATION: ("candidate_labels", "hypothesis_template", "multi_label"),
    Task.FEATURE_EXTRACTION: (),
}


@Language.factory(  # type: ignore[untyped-decorator]
    "lmonnx", default_config={"bundle": "", **_SETTINGS}
)
def make_component(  # spaCy calls it with the config's names
    nlp: Language,
    name: str,
    bundle: str,
    threads: int | None,
    long: str | None,
    aggregation_strategy: str,
    candidate_labels: list[str] | None,
    hypothesis_template: str,
    multi_label: bool,  # noqa: FBT001
) -> Component:
    """Return the component of `nlp.add_pipe("lmonnx", config={"bundle": FOLDER})`.

    Raises:
        InputError: No bundle is named.
        UnsupportedError: The bundle's task fills nothing of a doc.
        BundleError: The bundle cannot be opened.
    """
    del nlp, name
    if not bundle:
        raise InputError('name a bundle: add_pipe("lmonnx", config={"bundle": FOLDER})')
    task = Task.ZERO_SHOT_CLASSIFICATION if candidate_labels else None
    model = lmonnx.load(bundle, task=task, threads=threads, long=long)
    options = {
        "aggregation_strategy": aggregation_strategy,
        "candidate_labels": candidate_labels,
        "hypothesis_template": hypothesis_template,
        "multi_label": multi_label,
        "top_k": None,
    }
    return Component(model, task or model.bundle.manifest.task, options)
