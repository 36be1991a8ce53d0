"""Pairs of texts with a score → how an embedder's similarities follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.errors import InputError
from lmonnx.measure.datasets import Example, numbers
from lmonnx.measure.decisions import chunks, unit
from lmonnx.measure.judged import Similar
from lmonnx.progress import Progress
from lmonnx.runtime.pooling import SIMILARITIES


def judge_similarities(model: Any, examples: Sequence[Example], progress: Progress) -> Similar:
    """Compare the two texts of every example, embedded as by a call, by the model's own function.

    Raises:
        InputError: An example has one text, or a label is no number.
    """
    truth = numbers(examples)
    pairs = [example.text for example in examples]
    if not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError("a similarity is of two texts; name the second's column with --text-pair")
    texts = [text for pair in pairs for text in pair]
    # A call, not raw outputs: it puts the model's default prompt first, and cuts its dimensions.
    vectors = np.concatenate([model(some) for some in chunks(texts, progress)])
    compare = SIMILARITIES[model.bundle.manifest.embedding.similarity]
    two = zip(vectors[0::2], vectors[1::2], strict=True)
    given = np.array([compare(a[None], b[None])[0, 0] for a, b in two], np.float64)
    return Similar(truth, given, bool(np.isfinite(given).all()))


def similarities(vectors: NDArray[Any], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cosine of the rows that each pair names: (N, E), (P, 2) → (P,)."""
    normal = unit(vectors.astype(np.float64))
    result: NDArray[np.float64] = (normal[pairs[:, 0]] * normal[pairs[:, 1]]).sum(axis=1)
    return result


def seeded_pairs(count: int) -> NDArray[np.int64]:
    """Return neighbours, and as many pairs drawn by seed: (P, 2)."""
    rng = np.random.default_rng(0)
    first = np.tile(np.arange(count), 2)
    step = np.concatenate([np.ones(count, np.int64), rng.integers(1, max(2, count), size=count)])
    return np.stack([first, (first + step) % count], axis=1)
