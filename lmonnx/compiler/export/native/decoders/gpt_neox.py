"""GPT-NeoX, and Pythia: part of each head is turned, attention and feed-forward side by side."""

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
from lmonnx.compiler.export.native.decoders.rope import RopeFields, read_rope

_NAMES = Names(
    words="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
)
_ROPE = RopeFields(base="rotary_emb_base", share="rotary_pct", default_share=0.25)


def read_gpt_neox(config: Config) -> Decoder:
    """Read GPTNeoXForCausalLM's config.json (Black et al., arXiv:2204.06745)."""
    config.inert("hidden_dropout", "pad_token_id")
    hidden, heads = (
        config.integer("hidden_size"),
        config.divisor("num_attention_heads", "hidden_size"),
    )
    head, bias = hidden // heads, config.flag("attention_bias", default=True)
    # transformers writes both under a second name too, and reads the first.
    config.only("partial_rotary_factor", config.number("rotary_pct", 0.25))
    config.only("rope_theta", config.number("rotary_emb_base", 10000.0))
    rope = read_rope(config, head, _ROPE)
    return Decoder(
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        context=rope.context,
        epsilon=config.number("layer_norm_eps", 1e-5),
        layers=(Layer(),) * config.integer("num_hidden_layers"),
        attention=Attention(
            heads=heads,
            kv_heads=heads,
            head=head,
            scale=head**-0.5,
            qkv=Product("attention.query_key_value", bias=bias, by_head=heads),
            out=Product("attention.dense", bias=bias),
        ),
        ffn=FeedForward(
            size=config.integer("intermediate_size"),
            activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
            up=Product("mlp.dense_h_to_4h", bias=True),
            down=Product("mlp.dense_4h_to_h", bias=True),
            gated=False,
        ),
        ropes={"rope": rope},
        names=_NAMES,
        norm=Norm.LAYER,
        tied=config.flag("tie_word_embeddings", default=False),
        parallel=config.flag("use_parallel_residual", default=True),
    )
