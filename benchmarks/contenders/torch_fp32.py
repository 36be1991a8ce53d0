"""torch: BertForSequenceClassification in float32 under inference_mode, token ids → logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from protocol import Answers, Contender, Order, label_names, named, serve
from transformers import AutoModelForSequenceClassification

# transformers' own two ways to compute attention; which is faster depends on the processor.
ATTENTION = ("sdpa", "eager")


class Torch(Contender):
    """The model alone, without a pipeline."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Load the checkpoint once for each kind of attention."""
        torch.set_num_threads(order.threads)
        self.labels = label_names(order.model)
        self.models = {
            attention: AutoModelForSequenceClassification.from_pretrained(
                order.model, dtype=torch.float32, attn_implementation=attention
            ).eval()
            for attention in ATTENTION
        }
        return ATTENTION

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Run all rows as one batch."""
        with torch.inference_mode():
            logits = self.models[variant](torch.tensor(items)).logits
        return named(logits.numpy(), self.labels)


if __name__ == "__main__":
    serve(Torch())
