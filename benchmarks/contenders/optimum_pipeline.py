"""optimum: ORTModelForSequenceClassification, float32, in transformers' pipeline; batches as there.

Run with a checkpoint and a folder, it only exports: the ONNX file that optimum makes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from optimum.onnxruntime import ORTModelForSequenceClassification
from protocol import Answers, Contender, Order, made, serve
from transformers import AutoTokenizer, pipeline

BATCHES = {"batch 1": 1, "batch 8": 8, "batch 32": 32}


class OptimumPipeline(Contender):
    """The same pipeline with onnxruntime below."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Export once, and load what was exported."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = order.threads
        folder = exported(order.model, Path(order.cache))
        model = ORTModelForSequenceClassification.from_pretrained(folder, session_options=options)
        tokenizer = AutoTokenizer.from_pretrained(order.model)
        self.classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
        return list(BATCHES)

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Classify all texts in batches of the variant's size."""
        answers = self.classify(items, batch_size=BATCHES[variant], truncation=True)
        return Answers([answer["label"] for answer in answers])


def exported(model: str, cache: Path) -> Path:
    """Return the folder of optimum's export of a checkpoint, made first where it is not there."""

    def make(folder: Path) -> None:
        ORTModelForSequenceClassification.from_pretrained(model, export=True).save_pretrained(
            folder
        )
        AutoTokenizer.from_pretrained(model).save_pretrained(folder)

    return made(cache / "optimum", make)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        exported(sys.argv[1], Path(sys.argv[2]))
    else:
        serve(OptimumPipeline())
