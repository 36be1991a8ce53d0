"""Outputs → answers; one task a file, and PIPELINES says which serves which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmonnx.bundle.manifest import Task
from lmonnx.runtime.pipelines.base import Pipeline
from lmonnx.runtime.pipelines.feature_extraction import Embedder
from lmonnx.runtime.pipelines.fill_mask import FillMasker
from lmonnx.runtime.pipelines.question_answering import QuestionAnswerer
from lmonnx.runtime.pipelines.summarization import Summarizer
from lmonnx.runtime.pipelines.text_classification import TextClassifier
from lmonnx.runtime.pipelines.text_generation import TextGenerator
from lmonnx.runtime.pipelines.text_ranking import Reranker
from lmonnx.runtime.pipelines.text_to_text import TextToText
from lmonnx.runtime.pipelines.token_classification import TokenClassifier
from lmonnx.runtime.pipelines.translation import Translator
from lmonnx.runtime.pipelines.zero_shot import ZeroShotClassifier

PIPELINES: Mapping[Task, type[Pipeline[Any]]] = {
    Task.TEXT_CLASSIFICATION: TextClassifier,
    Task.TOKEN_CLASSIFICATION: TokenClassifier,
    Task.QUESTION_ANSWERING: QuestionAnswerer,
    Task.FEATURE_EXTRACTION: Embedder,
    Task.FILL_MASK: FillMasker,
    Task.ZERO_SHOT_CLASSIFICATION: ZeroShotClassifier,
    Task.TEXT_RANKING: Reranker,
}
# Tasks that are answered by a loop over the graph, not by one run.
GENERATORS: Mapping[Task, type[TextGenerator]] = {Task.TEXT_GENERATION: TextGenerator}
# Tasks of one and the same graph: a bundle of any of them can be loaded for each.
SAME_GRAPHS = (
    frozenset({Task.TEXT_CLASSIFICATION, Task.ZERO_SHOT_CLASSIFICATION, Task.TEXT_RANKING}),
    frozenset({Task.TRANSLATION, Task.SUMMARIZATION, Task.TEXT_TO_TEXT}),
)
# Tasks of encoder-decoders: a text becomes another text.
REWRITERS: Mapping[Task, type[TextToText]] = {
    Task.TRANSLATION: Translator,
    Task.SUMMARIZATION: Summarizer,
    Task.TEXT_TO_TEXT: TextToText,
}
