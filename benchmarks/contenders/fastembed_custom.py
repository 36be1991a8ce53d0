"""fastembed: the float32 graph of the bundle as a custom model; batches of 1 to 256."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from protocol import Answers, Contender, Order, serve

# fastembed takes texts as they come: it neither sorts nor mixes them.
BATCHES = {f"batch {size}": size for size in (1, 8, 16, 32, 64, 256)}
NAME = "lmonnx/benchmark"
GRAPH = "onnx/model.onnx"


class FastEmbed(Contender):
    """onnxruntime below, mean pooling and the norm in numpy."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Register the bundle's folder and load it."""
        config = json.loads((Path(order.model) / "config.json").read_text(encoding="utf-8"))
        TextEmbedding.add_custom_model(
            model=NAME,
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf=NAME),
            dim=config["hidden_size"],
            model_file=GRAPH,
            additional_files=[f"{GRAPH}_data"],
        )
        self.embedding = TextEmbedding(
            NAME, threads=order.threads, specific_model_path=order.bundle, cuda=False
        )
        # It cuts at the tokenizer's own length, which may be more than the embedder's.
        self.embedding.model.tokenizer.enable_truncation(order.max_length)
        return list(BATCHES)

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Embed all texts in batches of the variant's size."""
        return Answers(vectors=np.stack(list(self.embedding.embed(items, BATCHES[variant]))))


if __name__ == "__main__":
    serve(FastEmbed())
