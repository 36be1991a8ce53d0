"""CTranslate2: int8 encoder, batches sorted by length; the head or the mean pooling in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from protocol import Answers, Contender, Order, label_names, made, named, serve
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

SIZES = {"ragged": (8, 16, 32), "vectors": (8, 16, 32, 64)}
LONGEST = 512


class CTranslate2(Contender):
    """A C++ engine with kernels of its own."""

    def prepare(self, order: Order) -> Sequence[str]:
        """Convert once; load the encoder, and for labels the head's weights from the checkpoint."""
        self.kind = order.kind
        self.encoder = ctranslate2.Encoder(
            str(converted(order.model, Path(order.cache))),
            device="cpu",
            intra_threads=order.threads,
            inter_threads=1,
            compute_type="int8",
        )
        if self.kind != "vectors":
            self.labels = label_names(order.model)
            head = AutoModelForSequenceClassification.from_pretrained(order.model).classifier
            self.weight = head.weight.detach().float().numpy()  # (C, E)
            self.bias = head.bias.detach().float().numpy()  # (C,)
        if self.kind == "fixed":
            return ["one batch"]
        self.tokenizer = Tokenizer.from_file(str(Path(order.model) / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(order.max_length or LONGEST)
        self.sizes = {f"sorted, batch {size}": size for size in SIZES[self.kind]}
        return list(self.sizes)

    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Answer all items; texts the shortest first."""
        if self.kind == "fixed":
            return named(self.logits(items), self.labels)
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(items)]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        size = self.sizes[variant]
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        run = self.vectors if self.kind == "vectors" else self.logits
        found = np.concatenate([run([ids[row] for row in rows]) for rows in groups])
        rows = np.empty_like(found)
        rows[order] = found
        return Answers(vectors=rows) if self.kind == "vectors" else named(rows, self.labels)

    def logits(self, ids: list[list[int]]) -> np.ndarray:
        """Return the logits, (B, C), of a batch of token ids."""
        pooled = np.asarray(self.encoder.forward_batch(ids).pooler_output)  # (B, E)
        return pooled @ self.weight.T + self.bias

    def vectors(self, ids: list[list[int]]) -> np.ndarray:
        """Return the means of the tokens' vectors, of length 1, (B, E), of a batch of token ids."""
        hidden = np.asarray(self.encoder.forward_batch(ids).last_hidden_state)  # (B, S, E)
        lengths = np.array([len(row) for row in ids])
        mask = (np.arange(hidden.shape[1]) < lengths[:, None]).astype(np.float32)  # (B, S)
        means = (mask[:, None] @ hidden)[:, 0] / lengths[:, None].astype(np.float32)  # (B, E)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def converted(model: str, cache: Path) -> Path:
    """Return the folder of the int8 conversion, made first where it is not there."""
    converter = ctranslate2.converters.TransformersConverter(model)
    return made(
        cache / "ctranslate2-int8",
        lambda folder: converter.convert(str(folder), quantization="int8", force=True),
    )


if __name__ == "__main__":
    serve(CTranslate2())
