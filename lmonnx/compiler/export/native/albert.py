"""ALBERT: narrow embeddings, and layers that use the weights of their group again and again."""

from __future__ import annotations

from dataclasses import replace

from lmonnx.compiler.export.native import bert, blocks
from lmonnx.compiler.export.native.blocks import Encoded, LayerNames, Scope
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


def encode_albert(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return AlbertModel's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = bert.encoder_sizes(config, activation="gelu_new")
    config.inert(*_INERT)
    narrow = config.integer("embedding_size", 128)
    x = bert.typed_embeddings(g, config, narrow, sizes.epsilon)
    x = blocks.linear(g, x, "encoder.embedding_hidden_mapping_in", narrow, sizes.hidden)
    mask = blocks.additive_mask(g, "attention_mask")
    passes = _passes(config)
    for place, (layer, prefix) in enumerate(passes, 1):
        alone = first and place == len(passes)
        rows = blocks.first_row(g, x, "encoder.first") if alone else x
        turn = replace(g, turn=f"layer.{layer}.")
        x = blocks.post_norm_layer(turn, x, mask, prefix, _NAMES, sizes, rows=rows)
    return Encoded(blocks.drop_axis(g, x, "encoder.first") if first else x, sizes)


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
