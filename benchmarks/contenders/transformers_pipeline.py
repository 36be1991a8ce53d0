"""torch and transformers: the text-classification pipeline in float32, batches of 1, 8 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from protocol import Answers, Contender, Order, serve
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

BATCHES = {"batch 1": 1, "batch 8": 8, "batch 32": 32}


class TransformersPipeline(Contender):
    """What a user writes first."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Load the checkpoint in float32."""
        torch.set_num_threads(order.threads)
        model = AutoModelForSequenceClassification.from_pretrained(order.model, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(order.model)
        self.classify = pipeline(
            "text-classification", model=model, tokenizer=tokenizer, device="cpu"
        )
        return list(BATCHES)

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Classify all texts in batches of the variant's size."""
        answers = self.classify(items, batch_size=BATCHES[variant], truncation=True)
        return Answers([answer["label"] for answer in answers])


if __name__ == "__main__":
    serve(TransformersPipeline())
