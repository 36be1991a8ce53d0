"""GPT-2: learned positions, LayerNorm, and matrices stored as (in, out)."""

from __future__ import annotations

from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders.activations import ACTIVATIONS
from lmonnx.compiler.export.native.decoders.plan import (
    Attention,
    Decoder,
    FeedForward,
    Layer,
    Names,
    Norm,
    Product,
)

_NAMES = Names(
    words="wte",
    positions="wpe",
    layers="h",
    attention_norm="ln_1",
    ffn_norm="ln_2",
    final_norm="ln_f",
)
_INERT = (
    "attn_pdrop",
    "embd_pdrop",
    "n_ctx",
    "pad_token_id",
    "predict_special_tokens",
    "reorder_and_upcast_attn",  # another order of the same float32 sums
    "resid_pdrop",
    "summary_activation",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
)


def read_gpt2(config: Config) -> Decoder:
    """Read GPT2LMHeadModel's config.json (Radford et al., 2019)."""
    config.inert(*_INERT)
    config.only("scale_attn_by_inverse_layer_idx", False)
    config.only("add_cross_attention", False)
    hidden, heads = config.integer("n_embd"), config.divisor("n_head", "n_embd")
    head = hidden // heads
    scaled = config.flag("scale_attn_weights", default=True)
    return Decoder(
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        context=config.integer("n_positions"),
        epsilon=config.number("layer_norm_epsilon", 1e-5),
        layers=(Layer(rope=""),) * config.integer("n_layer"),
        attention=Attention(
            heads=heads,
            kv_heads=heads,
            head=head,
            scale=head**-0.5 if scaled else 1.0,
            qkv=_product("attn.c_attn"),
            out=_product("attn.c_proj"),
        ),
        ffn=FeedForward(
            size=config.integer_or("n_inner", 4 * hidden),
            activation=config.choice("activation_function", ACTIVATIONS, "gelu_new"),
            up=_product("mlp.c_fc"),
            down=_product("mlp.c_proj"),
            gated=False,
        ),
        names=_NAMES,
        norm=Norm.LAYER,
        tied=config.flag("tie_word_embeddings", default=True),
    )


def _product(module: str) -> Product:
    return Product(module, bias=True, by_columns=True)
