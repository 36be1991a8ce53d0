"""Which token types a tokenizer gives, and whether a checkpoint has embeddings for them."""

from __future__ import annotations

from typing import Any

from lmonnx.bundle.manifest import TextSpec
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.runtime.tokenizer import Tokenizer


def missing_type(checkpoint: Checkpoint, tokenizer: Tokenizer, text: TextSpec) -> int | None:
    """Return the highest type that a pair of texts is given, if the model has no such.

    None where the model is not told of types, or config.json does not say how many it has.
    """
    types: Any = checkpoint.config.get("type_vocab_size")
    if text.source.one_type or type(types) is not int or types < 1:
        return None
    (encoding, *_) = tokenizer.encode([("a", "b")])
    highest = max(encoding.type_ids, default=0)
    return highest if highest >= types else None
