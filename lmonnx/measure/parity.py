"""How far a bundle's logits are from a reference's, and whether that is near enough."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Activation, Head, Parity, Precision
from lmonnx.errors import InputError, ParityError
from lmonnx.runtime.numerics import ACTIVATIONS
from lmonnx.runtime.pipelines.text_classification import TextClassifier
from lmonnx.runtime.tokenizer import Long, Text

# float32: sums in another order. int8: the label is what counts; the gate guards the accuracy.
FLOAT32_TOLERANCE = 1e-4
INT8_AGREEMENT = 0.97
NEAR_TIE = 0.2  # between the scores of the two best labels: int8 may decide it the other way

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Golden:
    """Reference answers to texts: logits (N, C) of `source`, from transformers."""

    source: str
    texts: tuple[Text, ...]
    logits: Logits


def read_golden(path: Path) -> Golden:
    """Read a golden file: JSON with `source`, `texts` (a pair is a list of two) and `logits`.

    Raises:
        InputError: The file is missing or of another form.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        texts = tuple(_text(item) for item in stored["texts"])
        logits = np.asarray(stored["logits"], np.float32)
        source = str(stored.get("source", path.name))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a golden file ({error}); it is JSON with texts and logits"
        ) from error
    if logits.ndim != 2 or len(texts) != len(logits) or not texts:
        raise InputError(f"{path} has {len(texts)} texts and logits of shape {logits.shape}")
    return Golden(source, texts, logits)


def _text(item: Any) -> Text:
    if isinstance(item, str):
        return item
    first, second = item
    return str(first), str(second)


def measure_parity(model: TextClassifier, golden: Golden) -> Parity:
    """Run the reference's texts through a bundle and compare.

    Texts over the model's length are cut, as transformers cuts them.
    """
    logits = model.logits(golden.texts, long=Long.TRUNCATE)
    if logits.shape != golden.logits.shape:
        raise ParityError(
            f"the bundle gives {logits.shape[1]} logits a text, {golden.source} "
            f"{golden.logits.shape[1]}; they are not of one model"
        )
    return compare(golden.logits, logits, model.head, golden.source)


def compare(reference: Logits, logits: Logits, head: Head, source: str) -> Parity:
    """Return how far `logits`, (N, C), are from the reference's."""
    difference = float(np.abs(logits - reference).max())
    scale = float(np.ptp(reference)) or 1.0
    same = (decisions(reference, head) == decisions(logits, head)).all(axis=1)
    clear = _margins(reference, head) >= NEAR_TIE
    return Parity(
        reference=source,
        texts=len(reference),
        max_difference=difference,
        relative=difference / scale if np.isfinite(difference) else float("inf"),
        agreement=float(same.mean()),
        clear_agreement=float(same[clear].mean()) if clear.any() else 1.0,
    )


def decisions(logits: Logits, head: Head) -> NDArray[np.int64]:
    """Return what the head decides: the best class (N, 1), or yes or no to each label (N, C).

    A regression decides nothing; its column is 0 throughout.
    """
    if head.activation is Activation.SOFTMAX:
        best: NDArray[np.int64] = logits.argmax(axis=1, keepdims=True).astype(np.int64)
        return best
    if head.activation is Activation.SIGMOID:
        return (logits > 0).astype(np.int64)
    return np.zeros((len(logits), 1), np.int64)


def _margins(logits: Logits, head: Head) -> NDArray[np.float64]:
    """Return how far each text's decision is from the other way, in scores: (N,) in [0, 1]."""
    scores = ACTIVATIONS[head.activation](logits.astype(np.float64))
    if head.activation is Activation.SOFTMAX and logits.shape[1] > 1:
        ranked = np.sort(scores, axis=1)
        margins: NDArray[np.float64] = ranked[:, -1] - ranked[:, -2]
    elif head.activation is Activation.SIGMOID:
        margins = np.abs(2 * scores - 1).min(axis=1)
    else:
        margins = np.ones(len(logits))
    return margins


def require_parity(parity: Parity, precision: Precision) -> None:
    """Refuse outputs that are too far from the reference's.

    Raises:
        ParityError: float32 differs by more than 1e-4 of the range, or int8 gives another label
            to more than 3% of the texts that the reference does not leave nearly tied.
    """
    if not np.isfinite(parity.relative):
        raise ParityError(f"a logit of the bundle or of {parity.reference} is NaN or infinite")
    if precision is Precision.FLOAT32 and not parity.relative <= FLOAT32_TOLERANCE:
        raise ParityError(
            f"max |Δlogit| is {parity.relative:.2e} of the range on {parity.texts} texts, more "
            f"than {FLOAT32_TOLERANCE:.0e} away from {parity.reference}"
        )
    if precision is not Precision.FLOAT32 and not parity.clear_agreement >= INT8_AGREEMENT:
        raise ParityError(
            f"of {parity.texts} texts, near-ties aside, {parity.clear_agreement:.2%} get the label "
            f"of {parity.reference}, less than {INT8_AGREEMENT:.0%}"
        )
