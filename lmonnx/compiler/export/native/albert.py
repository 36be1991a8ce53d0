"""ALBERT: narrow embeddings, and layers that use the weights of their group again and again."""

from __future__ import annotations

from dataclasses import replace

from lmonnx.compiler.export.native import bert, blocks
from lmonnx.compiler.export.native.blocks import LayerNames, LayerSizes, Scope
from lmonnx.compiler.export.native.config import Config

_NAMES = LayerNames(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    attention_out="attention.dense",
    attention_norm="attention.LayerNorm",
    ffn_in="ffn",
    ffn_out="ffn_output",
    ffn_norm="full_layer_layer_norm",
)
# A dropout, and what the published files keep of the original code; transformers reads none.
_INERT = (
    "classifier_dropout_prob",
    "down_scale_factor",
    "gap_size",
    "layers_to_keep",
    "net_structure_type",
    "num_memory_blocks",
)


def albert_classifier(g: Scope, config: Config, classes: int) -> str:
    """Return AlbertForSequenceClassification's logits: (B, S) → (B, C)."""
    sizes = bert.encoder_sizes(config, activation="gelu_new")
    config.inert(*_INERT)
    narrow = config.integer("embedding_size", 128)
    x = bert.typed_embeddings(g, config, narrow, sizes.epsilon)
    x = blocks.linear(g, x, "encoder.embedding_hidden_mapping_in", narrow, sizes.hidden)
    row = _encode_first(g, config, x, sizes)
    pooled = blocks.linear_row(g, row, "pooler", sizes.hidden, sizes.hidden)
    pooled = g.op("Tanh", pooled, name="pooler/Tanh")
    return blocks.linear_row(g, pooled, "classifier", sizes.hidden, classes)


def _encode_first(g: Scope, config: Config, x: str, sizes: LayerSizes) -> str:
    """Return the first row of the last layer: (B, S, E) → (B, E)."""
    mask = blocks.additive_mask(g, "attention_mask")
    passes = _passes(config)
    for place, (layer, prefix) in enumerate(passes, 1):
        rows = blocks.first_row(g, x, "encoder.first") if place == len(passes) else x
        turn = replace(g, turn=f"layer.{layer}.")
        x = blocks.post_norm_layer(turn, x, mask, prefix, _NAMES, sizes, rows=rows)
    return blocks.drop_axis(g, x, "encoder.first")


def _passes(config: Config) -> list[tuple[int, str]]:
    """Return each layer's number and the prefix of the weights that it uses, in order.

    Source:
        transformers, `AlbertTransformer.forward`; its division is kept, exact or not.
    """
    layers = config.integer("num_hidden_layers")
    per_group = layers / config.integer("num_hidden_groups", 1)
    inner = config.integer("inner_group_num", 1)
    return [
        (layer, f"encoder.albert_layer_groups.{int(layer / per_group)}.albert_layers.{part}.")
        for layer in range(layers)
        for part in range(inner)
    ]
