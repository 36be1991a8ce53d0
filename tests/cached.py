"""A decoder's graph driven by hand: decision 11's contract over plain onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort

from lmonnx.bundle.bundle import Bundle

UNSET = 1e4  # what is in the cache beyond a row's end must not matter


class CachedGraph:
    """The graph of a bundle with a cache of some slots, bound as past and present at once."""

    def __init__(self, bundle: Bundle, *, slots: int = 1, room: int = 64) -> None:
        spec, cache = bundle.manifest.graphs["model"], bundle.manifest.generation.cache
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self.session = ort.InferenceSession(
            str(bundle.file(spec.file)), options, providers=["CPUExecutionProvider"]
        )
        names = [f"{i}.{part}" for i in range(cache.layers) for part in ("key", "value")]
        shape = (slots, cache.heads, room, cache.head_size)
        self.caches = {name: np.full(shape, UNSET, np.float32) for name in names}
        self.lengths = np.zeros(slots, np.int32)

    def __call__(self, ids: Sequence[Sequence[int]], *, slot: int = 0, keep: int = 1) -> np.ndarray:
        """Append `ids` (B, S) to the texts from `slot` on: their logits, (B, kept, V)."""
        tokens = np.asarray(ids, np.int64)
        rows = slice(slot, slot + len(tokens))
        self.lengths[rows] += tokens.shape[1]
        after = self.lengths[rows]
        binding = self.session.io_binding()
        for name, array in {
            "input_ids": tokens,
            "seqlens_k": after - 1,
            "total_sequence_length": after.max(),
            "logits_to_keep": np.int64(keep),
        }.items():
            binding.bind_cpu_input(name, np.asarray(array))
        binding.bind_output("logits", "cpu")
        for name, cache in self.caches.items():
            value = ort.OrtValue.ortvalue_from_numpy(cache[rows])
            assert value.data_ptr() == cache[rows].ctypes.data
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        self.session.run_with_iobinding(binding)
        return np.array(binding.get_outputs()[0].numpy())
