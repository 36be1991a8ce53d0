"""ELECTRA: BERT's layers behind narrower embeddings."""

from __future__ import annotations

from lmonnx.compiler.export.native import bert, blocks
from lmonnx.compiler.export.native.blocks import Encoded, Scope
from lmonnx.compiler.export.native.config import Config

# Of ElectraSequenceSummary, which only multiple choice has.
_SUMMARY = ("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout")


def encode_electra(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return ElectraModel's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = bert.encoder_sizes(config)
    config.inert(*_SUMMARY)
    narrow = config.integer("embedding_size", 128)
    x = bert.typed_embeddings(g, config, narrow, sizes.epsilon)
    if narrow != sizes.hidden:
        x = blocks.linear(g, x, "embeddings_project", narrow, sizes.hidden)
    return bert.encode_layers(g, config, x, sizes, first=first)
