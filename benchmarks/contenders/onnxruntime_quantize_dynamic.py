"""onnxruntime: a plain session on what its own quantize_dynamic makes of a float32 graph.

Every combination of its options is a variant, so that the fastest of them stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from protocol import Answers, Contender, Order, label_names, made, named, serve

TYPES = {"s8": QuantType.QInt8, "u8": QuantType.QUInt8}
CHOICE = (False, True)


class QuantizeDynamic(Contender):
    """Per-tensor int8 as onnxruntime's tool writes it."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Quantize once for every combination of options; load them all."""
        self.labels = label_names(order.model)
        self.sessions: dict[str, ort.InferenceSession] = {}
        options = ort.SessionOptions()
        options.intra_op_num_threads = order.threads
        options.log_severity_level = 3
        folder = Path(order.cache) / "quantize-dynamic"
        for source, kind, per_channel, reduce_range in product(order.graphs, TYPES, *[CHOICE] * 2):
            words = [source, kind, *(["per channel"] * per_channel), *(["7 bit"] * reduce_range)]
            make = partial(
                quantize_dynamic,
                order.graphs[source],
                per_channel=per_channel,
                reduce_range=reduce_range,
                weight_type=TYPES[kind],
            )
            path = made(folder / f"{'-'.join(words).replace(' ', '-')}.onnx", make)
            self.sessions[", ".join(words)] = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        return list(self.sessions)

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Run all rows as one batch."""
        ids = np.array(items, np.int64)
        arrays = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        session = self.sessions[variant]
        names = [value.name for value in session.get_inputs()]
        outputs = session.run(["logits"], {name: arrays[name] for name in names})
        return named(outputs[0], self.labels)


if __name__ == "__main__":
    serve(QuantizeDynamic())
