"""How far a bundle's raw outputs are from a reference's, and whether that is near enough."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmonnx.bundle.manifest import Parity, Precision
from lmonnx.errors import InputError, ParityError
from lmonnx.measure.decisions import (
    Answers,
    Decision,
    Raw,
    RawModel,
    answer_all,
    decide,
    decision_of,
    margins,
    stacked,
    unit,
)
from lmonnx.measure.metrics import pearson
from lmonnx.runtime.tokenizer import Long, Text

# float32: sums in another order. int8: the decision is what counts; the gate guards the accuracy.
FLOAT32_TOLERANCE = 1e-4
INT8_AGREEMENT = 0.97
INT4_AGREEMENT = 0.9  # SmolLM2 of 135M parameters in calibrated 4-bit blocks of 64 has 0.966
NEAR_TIE = 0.2  # between the scores of the two best labels: int8 may decide it the other way

_FORM = "it is JSON with texts, and with logits for each"
_MISSED: Mapping[Decision, str] = {
    Decision.BEST: "on {0.texts} texts, near-ties aside, {0.clear_agreement:.2%} is decided as by "
    "{0.reference}, less than {1:.0%}",
    Decision.EACH: "on {0.texts} texts, near-ties aside, {0.clear_agreement:.2%} get the labels of "
    "{0.reference}, less than {1:.0%}",
    Decision.VALUE: "on {0.texts} texts the correlation with {0.reference} is "
    "{0.clear_agreement:.4f}, less than {1}",
    Decision.VECTOR: "on {0.texts} texts the mean cosine similarity to the vectors of "
    "{0.reference} is {0.clear_agreement:.4f}, less than {1}",
}


@dataclass(frozen=True, slots=True)
class Golden:
    """Reference answers to texts: the raw outputs of `source`, (rows, C) a text."""

    source: str
    texts: tuple[Text, ...]
    answers: Answers


def read_golden(path: Path) -> Golden:
    """Read a golden file: JSON with `source`, `texts` (a pair is a list of two) and `logits`.

    The logits of a text are a row, or a list of rows.

    Raises:
        InputError: The file is missing or of another form.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a golden file: not JSON ({error}); {_FORM}") from error
    fields = stored if isinstance(stored, dict) else {}
    found = {name: fields.get(name) for name in ("texts", "logits")}
    for name, value in found.items():
        if not isinstance(value, list) or not value:
            raise InputError(f"{path} is not a golden file: it has no list of {name}; {_FORM}")
    items, rows = found["texts"] or [], found["logits"] or []
    if len(items) != len(rows):
        raise InputError(f"{path} has {len(items)} texts, but logits for {len(rows)}; {_FORM}")
    texts = tuple(_text(item, f"{path}: text {n}") for n, item in enumerate(items, 1))
    answers = [_rows(item, f"{path}: the logits of text {n}") for n, item in enumerate(rows, 1)]
    return Golden(str(fields.get("source", path.name)), texts, answers)


def _text(item: Any, where: str) -> Text:
    if isinstance(item, str):
        return item
    if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return item[0], item[1]
    raise InputError(f"{where} is neither a string nor a list of two; write one of these")


def _rows(item: Any, where: str) -> Raw:
    try:
        rows: Raw = np.asarray(item, np.float32)
    except (ValueError, TypeError, OverflowError):
        rows = np.empty((), np.float32)
    if rows.ndim not in {1, 2}:
        raise InputError(f"{where} are no numbers in a row, nor rows of one length; write these")
    if not rows.size:
        return np.empty((0, 0), np.float32)
    return np.atleast_2d(rows)


def measure_parity(model: RawModel, golden: Golden) -> Parity:
    """Run the reference's texts through a bundle and compare.

    Texts over the model's length are cut, as transformers cuts them.

    Raises:
        ParityError: The outputs are not of one shape.
    """
    answers = answer_all(model, golden.texts, long=Long.TRUNCATE)
    for number, (given, wanted) in enumerate(zip(answers, golden.answers, strict=True), 1):
        if given.shape != wanted.shape and (given.size or wanted.size):
            raise ParityError(
                f"the bundle gives {_shape(given)} for text {number}, {golden.source} "
                f"{_shape(wanted)}; they are not of one model"
            )
    return compare(golden.answers, answers, decision_of(model.bundle.manifest), golden.source)


def worst_parity(models: Sequence[RawModel], golden: Golden) -> Parity:
    """Return the parity of the graph of a bundle that is farthest from the reference.

    Raises:
        ParityError: The outputs are not of one shape.
    """
    found = [measure_parity(model, golden) for model in models]
    return min(found, key=lambda parity: (parity.clear_agreement, -parity.relative))


def _shape(raw: Raw) -> str:
    rows, columns = raw.shape
    return f"{columns} logits" if rows == 1 else f"{rows} rows of {columns} logits"


def compare(reference: Answers, answers: Answers, decision: Decision, source: str) -> Parity:
    """Return how far outputs are from the reference's, (rows, C) a text each."""
    wanted, given = (np.concatenate([raw.ravel() for raw in each]) for each in (reference, answers))
    difference = float(np.abs(given - wanted).max(initial=0))
    scale = float(np.ptp(wanted)) if len(wanted) else 0.0
    relative = difference / (scale or 1.0) if np.isfinite(difference) else float("inf")
    agreement, clear = _AGREEMENTS[decision](reference, answers, decision)
    if math.isnan(agreement):  # of values that do not differ, or are no numbers
        agreement = clear = float(relative <= 1 - INT8_AGREEMENT)
    return Parity(
        reference=source,
        texts=len(reference),
        max_difference=difference,
        relative=relative,
        agreement=agreement,
        clear_agreement=clear,
    )


def _same(reference: Answers, answers: Answers, decision: Decision) -> tuple[float, float]:
    """Return the share of rows that decide alike, of all and of those that are no near-ties."""
    if not sum(raw.size for raw in reference):
        return 1.0, 1.0
    pairs = [
        (wanted, given) for wanted, given in zip(reference, answers, strict=True) if wanted.size
    ]
    same = np.concatenate(
        [(decide(a, decision) == decide(b, decision)).all(axis=1) for a, b in pairs]
    )
    clear = np.concatenate([margins(wanted, decision) >= NEAR_TIE for wanted, _ in pairs])
    return float(same.mean()), float(same[clear].mean()) if clear.any() else 1.0


def _correlated(reference: Answers, answers: Answers, _: Decision) -> tuple[float, float]:
    """Return the correlation of the values, the mean over columns."""
    columns = zip(stacked(reference).T, stacked(answers).T, strict=True)
    mean = float(np.mean([pearson(wanted, given) for wanted, given in columns]))
    return mean, mean


def _aligned(reference: Answers, answers: Answers, _: Decision) -> tuple[float, float]:
    """Return the mean cosine similarity of the vectors."""
    wanted, given = (unit(stacked(each).astype(np.float64)) for each in (reference, answers))
    mean = float((wanted * given).sum(axis=1).mean())
    return mean, mean


_AGREEMENTS: Mapping[Decision, Callable[[Answers, Answers, Decision], tuple[float, float]]] = {
    Decision.BEST: _same,
    Decision.EACH: _same,
    Decision.VALUE: _correlated,
    Decision.VECTOR: _aligned,
}


def require_parity(
    parity: Parity, precision: Precision, decision: Decision = Decision.BEST
) -> None:
    """Refuse outputs that are too far from the reference's.

    Raises:
        ParityError: float32 differs by more than 1e-4 of the range, or int8 decides more than 3%
            (int4 10%) of the rows otherwise that the reference does not leave nearly tied; where
            nothing is decided, its values' correlation or its vectors' mean cosine is below 0.97.
    """
    if not np.isfinite(parity.relative):
        raise ParityError(f"an output of the bundle or of {parity.reference} is NaN or infinite")
    if precision is Precision.FLOAT32 and not parity.relative <= FLOAT32_TOLERANCE:
        raise ParityError(
            f"max |Δlogit| is {parity.relative:.2e} of the range on {parity.texts} texts, more "
            f"than {FLOAT32_TOLERANCE:.0e} away from {parity.reference}"
        )
    least = INT4_AGREEMENT if precision is Precision.INT4 else INT8_AGREEMENT
    if precision is not Precision.FLOAT32 and not parity.clear_agreement >= least:
        raise ParityError(_MISSED[decision].format(parity, least))
