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
        self.labels = label_names(order.model) if order.kind == "fixed" else []
        self.pipeline = lmonnx.load(order.bundle, threads=order.threads)
        longest = self.pipeline.bundle.manifest.text.max_length
        if order.max_length and longest != order.max_length:
            raise ValueError(f"the bundle cuts at {longest} tokens, the others {order.max_length}")
        ways = {
            "ragged": ("token budget", self.classify),
            "fixed": ("one batch", self.run_ids),
            "vectors": ("token budget", self.embed),
        }
        variant, self.way = ways[order.kind]
        return [variant]

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Answer all items."""
        del variant
        return self.way(items)

    def classify(self, items: list[str]) -> Answers:
        """Return the texts' labels."""
        return Answers([answer.label for answer in self.pipeline(items)])

    def embed(self, items: list[str]) -> Answers:
        """Return the texts' vectors."""
        return Answers(vectors=self.pipeline(items))

    def run_ids(self, items: list[list[int]]) -> Answers:
        """Return the logits of rows of token ids, one batch."""
        ids = np.array(items, np.int64)
        arrays = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        session = self.pipeline.session
        outputs = session.run({name: arrays[name] for name in session.inputs})
        return named(outputs["logits"], self.labels)


if __name__ == "__main__":
    serve(LmonnxBundle())
