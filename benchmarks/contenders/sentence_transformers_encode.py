"""sentence-transformers: `encode`, torch float32, batches of 8, 32 and 128; it sorts the texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from protocol import Answers, Contender, Order, serve
from sentence_transformers import SentenceTransformer

BATCHES = {f"batch {size}": size for size in (8, 32, 128)}


class SentenceTransformers(Contender):
    """What the checkpoint was made with."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Load the checkpoint in float32."""
        torch.set_num_threads(order.threads)
        self.model = SentenceTransformer(
            order.model, device="cpu", model_kwargs={"dtype": torch.float32}
        )
        self.model.max_seq_length = order.max_length
        return list(BATCHES)

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Embed all texts in batches of the variant's size."""
        size = BATCHES[variant]
        return Answers(vectors=self.model.encode(items, batch_size=size, show_progress_bar=False))


if __name__ == "__main__":
    serve(SentenceTransformers())
