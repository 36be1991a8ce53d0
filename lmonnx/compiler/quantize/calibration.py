"""What flows into each layer on plain text: means, which correct biases, and ranges."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.graph import save_graph
from lmonnx.compiler.quantize.layers import load_direct
from lmonnx.progress import Progress, track
from lmonnx.runtime.batch import Batch, batches
from lmonnx.runtime.session import Session, SessionConfig
from lmonnx.runtime.tokenizer import Long, Text, Tokenizer


@dataclass(frozen=True, slots=True)
class Seen:
    """What a value of the graph was on the calibration text: per channel, (K,), over tokens.

    `peak` is the largest magnitude; `least` is the smallest value of all channels.
    """

    mean: NDArray[np.float64]
    peak: NDArray[np.float32]
    least: float

    def joined(self, other: Seen, share: float) -> Seen:
        """Return what both saw, where `other` is `share` of all tokens."""
        return Seen(
            self.mean * (1 - share) + other.mean * share,
            np.maximum(self.peak, other.peak),
            min(self.least, other.least),
        )


Calibration = Mapping[str, Seen]


def text_batches(bundle: Bundle, session: Session, texts: Sequence[Text]) -> list[Batch]:
    """Return texts as the runtime would batch them, cut at the model's length."""
    text = bundle.manifest.text
    encodings = Tokenizer(bundle.file(text.source.file), text).encode(texts, Long.TRUNCATE)
    return list(batches(encodings, text.source, session.inputs))


def observe(
    bundle: Bundle, values: Collection[str], texts: Sequence[Text], *, progress: Progress
) -> Calibration:
    """Return what each named value of a bundle's graph is on some texts.

    Padding does not count. Of a value with one row a text each text is a token.

    Args:
        bundle: The float bundle.
        values: Names of float values, (B, S, K), (B·S, K) or (B, 1, K).
        texts: What to run.
        progress: Told after every batch.
    """
    graph = bundle.manifest.graphs["model"]
    source = bundle.file(graph.file)
    model = load_direct(source)
    for name in values:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    with tempfile.TemporaryDirectory(prefix="lmonnx-calibration-") as folder:
        path = Path(folder) / "model.onnx"
        spec = save_graph(model, source.parent, path, path.name, optimized=graph.optimized)
        session = Session(path, spec, SessionConfig())
        found: dict[str, Seen] = {}
        counts = dict.fromkeys(values, 0)
        for batch in track(text_batches(bundle, session, texts), "calibrating", progress):
            outputs = session.run(batch.inputs)
            kept = batch.inputs["attention_mask"].astype(bool)
            for name in values:
                rows = _rows(outputs[name], kept)
                counts[name] += len(rows)
                seen = Seen(
                    rows.mean(axis=0, dtype=np.float64), np.abs(rows).max(axis=0), float(rows.min())
                )
                before = found.get(name, seen)
                found[name] = before.joined(seen, len(rows) / counts[name])
    return found


def _rows(value: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the rows of tokens that are no padding: (B, S, K) or (B·S, K) → (N, K)."""
    if value.ndim == 2 and len(value) == kept.size:
        return value[kept.ravel()]
    return value[kept] if value.shape[:2] == kept.shape else value.reshape(-1, value.shape[-1])
