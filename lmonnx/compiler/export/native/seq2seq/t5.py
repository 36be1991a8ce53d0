"""T5, T5 1.1, flan-T5, ByT5 and mT5: no biases, RMS norms, distances instead of positions.

Source:
    Raffel et al., "T5" (arXiv:1910.10683); transformers' modeling_t5.py.
"""

from __future__ import annotations

from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders.activations import ACTIVATIONS
from lmonnx.compiler.export.native.decoders.plan import FeedForward, Norm, Product
from lmonnx.compiler.export.native.seq2seq.plan import (
    Distances,
    EncoderDecoder,
    Head,
    Heads,
    Modules,
    Stack,
)

_INERT = (
    "classifier_dropout",
    "dropout_rate",
    "is_encoder_decoder",
    "max_position_embeddings",  # no table of positions is there to be too short
    "output_past",
    "pad_token_id",
)
# Of one table that has several names, a file may have any.
_WORDS, _HEAD = ("shared", "encoder.embed_tokens", "decoder.embed_tokens"), "lm_head"
# Distances know no end, but nobody trained them further: T5's 512 tokens are all that is promised.
_POSITIONS, _LONGER = 512, 1024  # mT5 and ByT5, whose tokens are bytes
_ATTENTION = ("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v")
_CROSS = ("layer.1.EncDecAttention.q", "layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v")


def read_t5(config: Config) -> EncoderDecoder:
    """Read T5ForConditionalGeneration's config.json."""
    is_byte_level = config.words("tokenizer_class") == ["byt5tokenizer"]
    positions = _LONGER if is_byte_level else _POSITIONS
    return _read(config, projection="relu", tied=True, positions=positions)


def read_mt5(config: Config) -> EncoderDecoder:
    """Read MT5ForConditionalGeneration's config.json: T5 with other defaults."""
    return _read(config, projection="gated-gelu", tied=False, positions=_LONGER)


def _read(config: Config, *, projection: str, tied: bool, positions: int) -> EncoderDecoder:
    config.inert(*_INERT)
    tied = config.flag("tie_word_embeddings", default=tied)
    layers, hidden = config.integer("num_layers"), config.integer("d_model")
    context = config.integer_or("n_positions", positions)
    return EncoderDecoder(
        encoder=_stack(config, "encoder", layers, projection, tied=tied),
        decoder=_stack(
            config,
            "decoder",
            config.integer_or("num_decoder_layers", layers),
            projection,
            tied=tied,
        ),
        head=Head(tied, _HEAD, factor=hidden**-0.5 if tied else 1.0),
        source=context,
        context=context,
    )


def _stack(config: Config, side: str, layers: int, projection: str, *, tied: bool) -> Stack:
    hidden, last = config.integer("d_model"), 1 if side == "encoder" else 2
    return Stack(
        layers=f"{side}.block",
        count=layers,
        hidden=hidden,
        vocabulary=config.integer("vocab_size"),
        heads=Heads(hidden, config.integer("num_heads"), config.integer("d_kv"), 1.0, bias=False),
        ffn=_feed_forward(config, f"layer.{last}.DenseReluDense", projection),
        modules=Modules(
            qkv=_ATTENTION,
            out="layer.0.SelfAttention.o",
            attention_norm="layer.0.layer_norm",
            cross_qkv=_CROSS,
            cross_out="layer.1.EncDecAttention.o",
            cross_norm="layer.1.layer_norm",
            ffn_norm=f"layer.{last}.layer_norm",
        ),
        words=_WORDS + ((_HEAD,) if tied else ()),
        epsilon=config.number("layer_norm_epsilon", 1e-6),
        norm=Norm.RMS,
        norm_first=True,
        final_norm=f"{side}.final_layer_norm",
        distances=Distances(
            module=f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
            buckets=config.integer("relative_attention_num_buckets", 32),
            farthest=config.integer("relative_attention_max_distance", 128),
            both_ways=side == "encoder",
        ),
    )


def _feed_forward(config: Config, module: str, default: str) -> FeedForward:
    """Read feed_forward_proj, over which the two fields that it was cut into rule.

    Source:
        transformers, `T5Config.__init__`.
    """
    stated = config.choice("feed_forward_proj", _PROJECTIONS, default)
    gate, _, activation = stated.rpartition("-")
    if stated == "gated-gelu":
        activation = "gelu_new"
    activation = config.choice("dense_act_fn", ACTIVATIONS, activation)
    gated = config.flag("is_gated_act", default=bool(gate))
    up = Product(f"{module}.wi")
    if gated:
        up = Product(f"{module}.wi_gate_up", (f"{module}.wi_0", f"{module}.wi_1"))
    return FeedForward(
        size=config.integer("d_ff"),
        activation=activation,
        up=up,
        down=Product(f"{module}.wo"),
        gated=gated,
    )


_PROJECTIONS = (*ACTIVATIONS, *(f"gated-{name}" for name in ACTIVATIONS))
