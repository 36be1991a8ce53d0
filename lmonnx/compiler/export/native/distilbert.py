"""DistilBERT: BERT's layers under other names, without token types and pooler."""

from __future__ import annotations

from lmonnx.compiler.export.native import blocks
from lmonnx.compiler.export.native.blocks import LayerNames, LayerSizes, Scope
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


def distilbert_classifier(g: Scope, config: Config, classes: int) -> str:
    """Return DistilBertForSequenceClassification's logits: (B, S) → (B, C)."""
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
    layers = config.integer("n_layers")
    for layer in range(layers):
        last = layer == layers - 1
        rows = blocks.first_row(g, x, "transformer.first") if last else x
        prefix = f"transformer.layer.{layer}."
        x = blocks.post_norm_layer(g, x, mask, prefix, _NAMES, sizes, rows=rows)
    row = blocks.drop_axis(g, x, "transformer.first")
    inner = blocks.linear_row(g, row, "pre_classifier", sizes.hidden, sizes.hidden)
    inner = g.op("Relu", inner, name="pre_classifier/Relu")
    return blocks.linear_row(g, inner, "classifier", sizes.hidden, classes)


def _embeddings(g: Scope, config: Config, sizes: LayerSizes) -> str:
    """Return norm(word + position): (B, S, E)."""
    scope, hidden = "embeddings", sizes.hidden
    config.integer("pad_token_id", 0, least=0)
    rows, vocabulary = config.integer("max_position_embeddings"), config.integer("vocab_size")
    name = f"{scope}.position_embeddings"
    positions = blocks.first_positions(g, "input_ids", name, rows, hidden)
    words = blocks.embedding(g, "input_ids", f"{scope}.word_embeddings", vocabulary, hidden)
    x = g.op("Add", words, positions, name=f"{scope}/AddPositions")
    return blocks.layer_norm(g, x, f"{scope}.LayerNorm", hidden, sizes.epsilon)
