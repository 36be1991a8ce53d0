"""BERT and what differs from it by names and positions only: RoBERTa, XLM-R, CamemBERT.

Families that share its embeddings, its layers or its fields take them from here.
"""

from __future__ import annotations

import numpy as np

from lmonnx.compiler.export.native import blocks
from lmonnx.compiler.export.native.blocks import Encoded, LayerNames, LayerSizes, Scope
from lmonnx.compiler.export.native.config import Config

_NAMES = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    ffn_norm="output.LayerNorm",
)


def encode_bert(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return BertModel's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = encoder_sizes(config)
    x = typed_embeddings(g, config, sizes.hidden, sizes.epsilon)
    return encode_layers(g, config, x, sizes, first=first)


def encode_roberta(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return RobertaModel's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = encoder_sizes(config)
    x = _roberta_embeddings(g, config, sizes)
    return encode_layers(g, config, x, sizes, first=first)


def encoder_sizes(config: Config, *, activation: str = "gelu") -> LayerSizes:
    """Read the fields that these encoders share; `activation` is the default of hidden_act."""
    sizes = LayerSizes(
        hidden=config.integer("hidden_size"),
        intermediate=config.integer("intermediate_size"),
        heads=config.divisor("num_attention_heads", "hidden_size"),
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation=config.choice("hidden_act", blocks.ACTIVATIONS, activation),
    )
    config.only("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        config.only(name, False)
    config.only("pruned_heads", {})
    return sizes


def encode_layers(g: Scope, config: Config, x: str, sizes: LayerSizes, *, first: bool) -> Encoded:
    """Return what the last layer gives: (B, S, E) → (B, S, E), or (B, E) if `first`."""
    mask = blocks.additive_mask(g, "attention_mask")
    count = config.integer("num_hidden_layers")
    return blocks.encode(g, x, mask, count, "encoder.layer.", _NAMES, sizes, first=first)


def typed_embeddings(g: Scope, config: Config, size: int, epsilon: float) -> str:
    """Return norm(word + type + position), positions from the first token: (B, S, size)."""
    rows = config.integer("max_position_embeddings")
    types = config.integer("type_vocab_size", 2)
    name = "embeddings.position_embeddings"
    positions = blocks.first_positions(g, "input_ids", name, rows, size)
    name = "embeddings.token_type_embeddings"
    kinds = blocks.embedding(g, "token_type_ids", name, types, size)
    return _sum_embeddings(g, config, size, epsilon, positions, kinds)


def _roberta_embeddings(g: Scope, config: Config, sizes: LayerSizes) -> str:
    rows = config.integer("max_position_embeddings")
    types = config.integer("type_vocab_size", 2)
    ids = positions_after_padding(g, config.integer("pad_token_id", 1, least=0))
    name = "embeddings.position_embeddings"
    positions = blocks.embedding(g, ids, name, rows, sizes.hidden)
    # RoBERTa's tokenizers give no token types, so every token has type 0.
    name = "embeddings.token_type_embeddings.weight"
    kinds = g.graph.weight(f"{name}.0", g.params.read(name, types, sizes.hidden)[0])
    return _sum_embeddings(g, config, sizes.hidden, sizes.epsilon, positions, kinds)


def positions_after_padding(g: Scope, pad: int) -> str:
    """Count from `pad` + 1 and give padding `pad`: (B, S) → (B, S).

    Source:
        transformers, `create_position_ids_from_input_ids`.
    """
    scope = "embeddings.position_ids"
    is_pad = g.op("Equal", "input_ids", g.ints(pad), name=f"{scope}/Equal")
    kept = g.op("Cast", g.op("Not", is_pad, name=f"{scope}/Not"), name=f"{scope}/Cast", to=7)
    axis = g.graph.const(1, np.int64)
    count = g.op("CumSum", kept, axis, name=f"{scope}/CumSum")
    count = g.op("Mul", count, kept, name=f"{scope}/Mul")
    return g.op("Add", count, g.ints(pad), name=f"{scope}/Add")


def _sum_embeddings(
    g: Scope, config: Config, size: int, epsilon: float, positions: str, kinds: str
) -> str:
    """Return norm(word + type + position): (B, S, size)."""
    scope = "embeddings"
    config.integer("pad_token_id", 0, least=0)
    vocabulary = config.integer("vocab_size")
    words = blocks.embedding(g, "input_ids", f"{scope}.word_embeddings", vocabulary, size)
    x = g.op("Add", words, kinds, name=f"{scope}/AddTypes")
    x = g.op("Add", x, positions, name=f"{scope}/AddPositions")
    return blocks.layer_norm(g, x, f"{scope}.LayerNorm", size, epsilon)
