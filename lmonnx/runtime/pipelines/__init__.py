"""Outputs → answers; one task a file, and PIPELINES says which serves which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmonnx.bundle.manifest import Task
from lmonnx.runtime.pipelines.base import Pipeline
from lmonnx.runtime.pipelines.text_classification import TextClassifier

PIPELINES: Mapping[Task, type[Pipeline[Any]]] = {
    Task.TEXT_CLASSIFICATION: TextClassifier,
}
# Tasks of one and the same graph: a bundle of any of them can be loaded for each.
SAME_GRAPH = frozenset({Task.TEXT_CLASSIFICATION, Task.ZERO_SHOT_CLASSIFICATION, Task.TEXT_RANKING})
