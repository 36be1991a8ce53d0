"""Llama, and the families that are Llama but for a few fields."""

from __future__ import annotations

from dataclasses import replace

from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders.activations import ACTIVATIONS
from lmonnx.compiler.export.native.decoders.fields import kv_heads, read_windows
from lmonnx.compiler.export.native.decoders.plan import (
    Attention,
    Decoder,
    FeedForward,
    Layer,
    Product,
)
from lmonnx.compiler.export.native.decoders.rope import LLAMA_ROPE, RopeFields, read_rope

QKV = tuple(f"self_attn.{name}_proj" for name in "qkv")
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")


def read_llama(config: Config) -> Decoder:
    """Read LlamaForCausalLM's config.json."""
    config.inert("pretraining_tp")
    config.only("rope_interleaved", False)
    return read_base(
        config,
        attention=read_attention(config, bias=config.flag("attention_bias", default=False)),
        ffn=read_ffn(config, bias=config.flag("mlp_bias", default=False)),
    )


def read_mistral(config: Config) -> Decoder:
    """Read MistralForCausalLM's config.json: Llama whose tokens may look back over a window."""
    decoder = read_base(config, attention=read_attention(config), ffn=read_ffn(config))
    window = config.integer_or_none("sliding_window", 4096) or 0
    return replace(decoder, layers=(Layer(window=window),) * len(decoder.layers))


def read_qwen2(config: Config) -> Decoder:
    """Read Qwen2ForCausalLM's config.json: Llama with biases on queries, keys and values."""
    attention = read_attention(config)
    qkv = replace(attention.qkv, bias=True)
    return _windowed(config, replace(attention, qkv=qkv))


def read_qwen3(config: Config) -> Decoder:
    """Read Qwen3ForCausalLM's config.json: Llama that normalizes each query and key."""
    bias = config.flag("attention_bias", default=False)
    attention = read_attention(config, bias=bias, head=128)
    return _windowed(config, replace(attention, head_norms=HEAD_NORMS))


def read_smollm3(config: Config) -> Decoder:
    """Read SmolLM3ForCausalLM's config.json: Llama without positions in some of the layers.

    Source:
        Yang et al., "Rope to Nope and Back Again" (arXiv:2501.18795).
    """
    config.inert("pretraining_tp", "max_window_layers")
    decoder = read_base(
        config,
        attention=read_attention(config, bias=config.flag("attention_bias", default=False)),
        ffn=read_ffn(config, bias=config.flag("mlp_bias", default=False)),
        rope=RopeFields(default_base=2e6),
        tied=True,
    )
    count = len(decoder.layers)
    interval = config.integer("no_rope_layer_interval", 4)
    turned = [int((index + 1) % interval != 0) for index in range(count)]
    turned = [int(flag) for flag in config.numbers("no_rope_layers", count, turned)]
    window = config.integer_or_none("sliding_window") or 0
    window = window if config.flag("use_sliding_window", default=False) else 0
    windows = read_windows(config, count, window, lambda index: not turned[index])
    layers = zip(turned, windows, strict=True)
    return replace(
        decoder, layers=tuple(Layer("rope" if turns else "", width) for turns, width in layers)
    )


def read_granite(config: Config) -> Decoder:
    """Read GraniteForCausalLM's config.json: Llama with factors, which the weights take up."""
    residual = config.number("residual_multiplier", 1.0)
    attention = read_attention(config, bias=config.flag("attention_bias", default=False))
    ffn = read_ffn(config, bias=config.flag("mlp_bias", default=False))
    scale = config.number("attention_multiplier", 1.0)
    decoder = read_base(
        config,
        attention=replace(attention, scale=scale, out=replace(attention.out, factor=residual)),
        ffn=replace(ffn, down=replace(ffn.down, factor=residual)),
    )
    return replace(
        decoder,
        words_factor=config.number("embedding_multiplier", 1.0),
        logits_factor=1 / config.number("logits_scaling", 1.0),
    )


def read_phi3(config: Config) -> Decoder:
    """Read Phi3ForCausalLM's config.json: Llama whose stacked products are stored as such."""
    config.inert("embd_pdrop", "resid_pdrop", "full_attn_mod", "interpolate_factor")
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        config.only(name, False)
    attention, ffn = read_attention(config), read_ffn(config)
    decoder = read_base(
        config,
        attention=replace(attention, qkv=Product("self_attn.qkv_proj")),
        ffn=replace(ffn, up=Product("mlp.gate_up_proj")),
        rope=RopeFields(
            share="partial_rotary_factor", aliases={"su": "longrope", "yarn": "longrope"}
        ),
        epsilon=1e-5,
    )
    window = config.integer_or_none("sliding_window") or 0
    return replace(decoder, layers=(Layer(window=window),) * len(decoder.layers))


def read_base(
    config: Config,
    *,
    attention: Attention,
    ffn: FeedForward,
    rope: RopeFields = LLAMA_ROPE,
    epsilon: float = 1e-6,
    tied: bool = False,
) -> Decoder:
    """Read what all these families share; `epsilon` and `tied` are the defaults of the fields."""
    config.inert("pad_token_id")
    turns = read_rope(config, attention.head, rope)
    return Decoder(
        vocabulary=config.integer("vocab_size"),
        hidden=config.integer("hidden_size"),
        context=turns.context,
        epsilon=config.number("rms_norm_eps", epsilon),
        layers=(Layer(),) * config.integer("num_hidden_layers"),
        attention=attention,
        ffn=ffn,
        ropes={"rope": turns},
        tied=config.flag("tie_word_embeddings", default=tied),
    )


def read_attention(config: Config, *, bias: bool = False, head: int | None = None) -> Attention:
    """Read the heads; `head` is the default of head_dim, E/H where it is None."""
    heads = config.integer("num_attention_heads")
    if head is None:
        head = config.integer("hidden_size") // heads
    head = config.integer_or("head_dim", head)
    return Attention(
        heads=heads,
        kv_heads=kv_heads(config, heads),
        head=head,
        scale=head**-0.5,
        qkv=Product("self_attn.qkv_proj", QKV, bias=bias),
        out=Product("self_attn.o_proj", bias=bias),
    )


def read_ffn(
    config: Config, *, bias: bool = False, field: str = "hidden_act", default: str = "silu"
) -> FeedForward:
    """Read the gated feed-forward; `field` names its activation."""
    return FeedForward(
        size=config.integer("intermediate_size"),
        activation=config.choice(field, ACTIVATIONS, default),
        up=Product("mlp.gate_up_proj", GATE_UP, bias=bias),
        down=Product("mlp.down_proj", bias=bias),
    )


def _windowed(config: Config, attention: Attention) -> Decoder:
    """Read Qwen's layers, of which the upper ones may look back over a window."""
    decoder = read_base(config, attention=attention, ffn=read_ffn(config))
    window = config.integer_or_none("sliding_window", 4096) or 0
    window = window if config.flag("use_sliding_window", default=False) else 0
    lowest = config.integer("max_window_layers", 28, least=0)
    windows = read_windows(config, len(decoder.layers), window, lambda index: index >= lowest)
    return replace(decoder, layers=tuple(Layer(window=width) for width in windows))
