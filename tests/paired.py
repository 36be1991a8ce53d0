"""The two graphs of an encoder-decoder driven by hand: decision 13's contract."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from lmonnx.bundle.manifest import CacheSpec
from tests.cached import UNSET


@dataclass(frozen=True)
class Step:
    """What a call of the decoder gives."""

    logits: np.ndarray
    top_logprobs: np.ndarray
    top_ids: np.ndarray


class Sources:
    """Sources that an encoder has read; several answers to each may be begun."""

    def __init__(self, encoder: Path, ids: Sequence[Sequence[int]], *, pad: int) -> None:
        self.lengths = np.array([len(row) for row in ids], np.int32)
        padded = np.full((len(ids), self.lengths.max()), pad, np.int64)
        for row, source in zip(padded, ids, strict=True):
            row[: len(source)] = source
        session = _session(encoder)
        names = [output.name for output in session.get_outputs()]
        inputs = {"input_ids": padded, "source_lengths": self.lengths}
        self.cross = dict(zip(names, session.run(names, inputs), strict=True))


class Answers:
    """The decoder over a cache of its own, whose rows may be of different lengths."""

    def __init__(
        self, decoder: Path, cache: CacheSpec, sources: Sources, *, beams: int = 1, room: int = 16
    ) -> None:
        self.session, self.sources = _session(decoder), sources
        rows = len(sources.lengths) * beams
        shape = (rows, cache.heads, room, cache.head_size)
        names = [f"{i}.{part}" for i in range(cache.layers) for part in ("key", "value")]
        self.caches = {name: np.full(shape, UNSET, np.float32) for name in names}
        self.lengths = np.zeros(rows, np.int32)

    def __call__(
        self, ids: np.ndarray, *, added: np.ndarray | None = None, keep: int = 1, top_k: int = 0
    ) -> Step:
        """Append `ids` (rows, Q), of each row the first `added`, and run."""
        self.lengths += np.int32(ids.shape[1]) if added is None else added.astype(np.int32)
        binding = self.session.io_binding()
        inputs = {
            "input_ids": ids.astype(np.int64),
            "seqlens_k": self.lengths - 1,
            "total_sequence_length": self.lengths.max(),
            "logits_to_keep": np.int64(keep),
            "top_k": np.int64(top_k),
            "source_lengths": self.sources.lengths,
            **self.sources.cross,
        }
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.asarray(array))
        for name in ("logits", "top_logprobs", "top_ids"):
            binding.bind_output(name, "cpu")
        for name, cache in self.caches.items():
            value = ort.OrtValue.ortvalue_from_numpy(cache)
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        self.session.run_with_iobinding(binding)
        return Step(*(np.array(value.numpy()) for value in binding.get_outputs()[:3]))


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
