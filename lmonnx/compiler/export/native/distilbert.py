"""DistilBERT: BERT's layers under other names, without token types and pooler."""

from __future__ import annotations

from lmonnx.compiler.export.native import blocks
from lmonnx.compiler.export.native.blocks import Encoded, LayerNames, LayerSizes, Scope
from lmonnx.compiler.export.native.config import Config

_NAMES = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_out="attention.out_lin",
    attention_norm="sa_layer_norm",
    ffn_in="ffn.lin1",
    ffn_out="ffn.lin2",
    ffn_norm="output_layer_norm",
)
_EPSILON = 1e-12  # fixed in transformers' code


def encode_distilbert(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return DistilBertModel's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = LayerSizes(
        hidden=config.integer("dim"),
        intermediate=config.integer("hidden_dim"),
        heads=config.divisor("n_heads", "dim"),
        epsilon=_EPSILON,
        activation=config.choice("activation", blocks.ACTIVATIONS, "gelu"),
    )
    config.flag("sinusoidal_pos_embds", default=False)  # the table is in the checkpoint either way
    for name in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        config.only(name, False)
    config.only("pruned_heads", {})
    x = _embeddings(g, config, sizes)
    mask = blocks.additive_mask(g, "attention_mask")
    count = config.integer("n_layers")
    return blocks.encode(g, x, mask, count, "transformer.layer.", _NAMES, sizes, first=first)


def _embeddings(g: Scope, config: Config, sizes: LayerSizes) -> str:
    """Return norm(word + position): (B, S, E)."""
    config.integer("pad_token_id", 0, least=0)
    rows, vocabulary = config.integer("max_position_embeddings"), config.integer("vocab_size")
    name = "embeddings.position_embeddings"
    positions = blocks.first_positions(g, "input_ids", name, rows, sizes.hidden)
    return blocks.word_and_position(g, vocabulary, positions, sizes.hidden, sizes.epsilon)
