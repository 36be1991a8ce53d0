"""lmonnx: a bundle answers; texts through the whole pipeline, token ids through its session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from protocol import Answers, Contender, Order, label_names, named, serve

import lmonnx


class LmonnxBundle(Contender):
    """What this repository makes."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Load the bundle."""
        self.fixed = order.kind == "fixed"
        self.labels = label_names(order.model)
        self.classify = lmonnx.load(order.bundle, threads=order.threads)
        return ["one batch" if self.fixed else "token budget"]

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Classify all items."""
        if not self.fixed:
            return Answers([answer.label for answer in self.classify(items)])
        ids = np.array(items, np.int64)
        arrays = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        session = self.classify.session
        outputs = session.run({name: arrays[name] for name in session.inputs})
        return named(outputs["logits"], self.labels)


if __name__ == "__main__":
    serve(LmonnxBundle())
