"""CTranslate2: int8 encoder, batches sorted by length, sizes 8, 16 and 32; the head in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from protocol import Answers, Contender, Order, label_names, made, named, serve
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

BATCHES = {"sorted, batch 8": 8, "sorted, batch 16": 16, "sorted, batch 32": 32}
LONGEST = 512


class CTranslate2(Contender):
    """A C++ engine with kernels of its own."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Convert once; load the encoder, and the head's weights from the checkpoint."""
        self.labels = label_names(order.model)
        self.fixed = order.kind == "fixed"
        self.encoder = ctranslate2.Encoder(
            str(converted(order.model, Path(order.cache))),
            device="cpu",
            intra_threads=order.threads,
            inter_threads=1,
            compute_type="int8",
        )
        head = AutoModelForSequenceClassification.from_pretrained(order.model).classifier
        self.weight = head.weight.detach().float().numpy()  # (C, E)
        self.bias = head.bias.detach().float().numpy()  # (C,)
        if self.fixed:
            return ["one batch"]
        self.tokenizer = Tokenizer.from_file(str(Path(order.model) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(LONGEST)
        return list(BATCHES)

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Classify all items, the shortest first."""
        if self.fixed:
            return named(self.logits(items), self.labels)
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(items)]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        logits = np.empty((len(ids), len(self.labels)), np.float32)
        size = BATCHES[variant]
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            logits[rows] = self.logits([ids[row] for row in rows])
        return named(logits, self.labels)

    def logits(self, ids: list[list[int]]) -> np.ndarray:
        """Return the logits, (B, C), of a batch of token ids."""
        pooled = np.asarray(self.encoder.forward_batch(ids).pooler_output)  # (B, E)
        return pooled @ self.weight.T + self.bias


def converted(model: str, cache: Path) -> Path:
    """Return the folder of the int8 conversion, made first where it is not there."""
    converter = ctranslate2.converters.TransformersConverter(model)
    return made(
        cache / "ctranslate2-int8",
        lambda folder: converter.convert(str(folder), quantization="int8", force=True),
    )


if __name__ == "__main__":
    serve(CTranslate2())
