"""ELECTRA: BERT's layers behind narrower embeddings, and a head with GELU."""

from __future__ import annotations

from lmonnx.compiler.export.native import bert, blocks
from lmonnx.compiler.export.native.blocks import Scope
from lmonnx.compiler.export.native.config import Config

# Of ElectraSequenceSummary, which only multiple choice has.
_SUMMARY = ("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")


def electra_classifier(g: Scope, config: Config, classes: int) -> str:
    """Return ElectraForSequenceClassification's logits: (B, S) → (B, C)."""
    sizes = bert.encoder_sizes(config)
    config.inert(*_SUMMARY)
    narrow = config.integer("embedding_size", 128)
    x = bert.typed_embeddings(g, config, narrow, sizes.epsilon)
    if narrow != sizes.hidden:
        x = blocks.linear(g, x, "embeddings_project", narrow, sizes.hidden)
    row = bert.encode_first(g, config, x, sizes)
    inner = blocks.linear_row(g, row, "classifier.dense", sizes.hidden, sizes.hidden)
    # The head's activation is fixed in transformers' code, whatever hidden_act is.
    inner = blocks.ACTIVATIONS["gelu"](g, inner, "classifier/activation")
    return blocks.linear_row(g, inner, "classifier.out_proj", sizes.hidden, classes)
