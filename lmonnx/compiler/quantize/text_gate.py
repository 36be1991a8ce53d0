"""Whether a smaller decoder still predicts text as well: perplexity, KL, greedy agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import GateError
from lmonnx.measure.perplexity import Comparison, Predictor, compare, read_windows
from lmonnx.measure.sentences import gate_sentences
from lmonnx.progress import Progress

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TextGate:
    """Windows of text, and how much larger perplexity may be on them than the input bundle's."""

    bundle: Bundle
    windows: Sequence[Ids]
    max_drop: float

    def measure(self, made: Bundle, progress: Progress) -> dict[str, Any]:
        """Return the metrics of a bundle: those of its worst graph, and every graph's.

        Raises:
            GateError: A graph's perplexity is over the limit, or no number.
        """
        reference = Predictor(self.bundle)
        found = {
            role: compare(reference, Predictor(made, role), self.windows, progress=progress)
            for role in made.manifest.graphs
        }
        worst = max(found.values(), key=lambda each: each.ratio)
        if not worst.ratio - 1 <= self.max_drop:
            raise GateError(
                f"perplexity rises from {worst.reference:.2f} to {worst.perplexity:.2f} "
                f"(× {worst.ratio:.4f}) on {worst.predictions} predictions, more than --max-drop "
                f"{self.max_drop} allows; nothing was written. Allow more, take more bits or "
                "smaller blocks, keep layers with --keep, or check the text"
            )
        return _metrics(worst) | {"graphs": {role: _figures(each) for role, each in found.items()}}


def open_text_gate(bundle: Bundle, text: str | None, max_drop: float) -> TextGate:
    """Return the gate of a decoder: on a text, or on every second of the shipped sentences."""
    read = text if text is not None else "\n".join(gate_sentences()[1::2])
    return TextGate(bundle, read_windows(bundle, read), max_drop)


def calibration_windows(bundle: Bundle) -> list[Ids]:
    """Return the other half of the shipped sentences, which the gate is not measured on."""
    return read_windows(bundle, "\n".join(gate_sentences()[::2]))


def _metrics(worst: Comparison) -> dict[str, Any]:
    low, high = worst.interval
    return {
        "drop": worst.ratio - 1,
        "interval": [low - 1, high - 1],
        "texts": worst.predictions,
        "measured": "perplexity",
        "agreement": worst.agreement,
    }


def _figures(each: Comparison) -> dict[str, Any]:
    return asdict(each) | {"interval": list(each.interval), "ratio": each.ratio}
