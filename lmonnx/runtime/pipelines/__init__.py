"""Outputs → answers; one task a file, and PIPELINES says which serves which."""

from __future__ import annotations

from collections.abc import Mapping

from lmonnx.bundle.manifest import Task
from lmonnx.runtime.pipelines.text_classification import TextClassifier

PIPELINES: Mapping[Task, type[TextClassifier]] = {Task.TEXT_CLASSIFICATION: TextClassifier}
