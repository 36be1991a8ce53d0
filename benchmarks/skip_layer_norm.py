"""Prints how fast an unoptimized bundle runs with and without SkipLayerNormalization, in one run.

The fusion needs shapes, so they are inferred first; 16 × 32 tokens, two threads, best of rounds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

ROUNDS, ROWS, TOKENS = 40, 16, 32
FUSION = "SkipLayerNormFusion"


def session(model: bytes, disabled: list[str]) -> ort.InferenceSession:
    """Load a graph, its weights included, on two threads of the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    # A session that has run keeps a core spinning, and would slow the other one down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model, options, providers=providers, disabled_optimizers=disabled)


def seconds(model: ort.InferenceSession) -> float:
    """Return how long one batch takes."""
    shape = (ROWS, TOKENS)
    ids = np.random.default_rng(0).integers(5, 1000, shape)
    given = {"input_ids": ids, "attention_mask": np.ones(shape, np.int64)}
    feeds = {
        value.name: given.get(value.name, np.zeros(shape, np.int64)) for value in model.get_inputs()
    }
    started = time.perf_counter()
    model.run(None, feeds)
    return time.perf_counter() - started


def main() -> None:
    """Time both forms in turn and print their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    path = parser.parse_args().bundle / "onnx" / "model.onnx"
    model = onnx.shape_inference.infer_shapes(onnx.load(path)).SerializeToString()
    forms = {"fused": session(model, []), "apart": session(model, [FUSION])}
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(ROUNDS):
        for name, form in forms.items():
            best[name] = min(best[name], seconds(form))
    for name, taken in best.items():
        print(f"{name:6} {taken * 1e3:8.2f} ms for {ROWS} x {TOKENS} tokens")
    print(f"fused / apart: {best['fused'] / best['apart']:.2f}")


if __name__ == "__main__":
    main()
