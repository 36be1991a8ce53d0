"""Gemma 1, 2 and 3: norms by 1 + w, scaled embeddings, and from 2 on windows and more norms."""

from __future__ import annotations

import math
from dataclasses import replace

from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders.fields import read_windows
from lmonnx.compiler.export.native.decoders.llama import (
    HEAD_NORMS,
    read_attention,
    read_base,
    read_ffn,
)
from lmonnx.compiler.export.native.decoders.plan import Decoder, Layer, Names, Norm
from lmonnx.compiler.export.native.decoders.rope import Rope, RopeFields, frequencies

_TANH = "gelu_pytorch_tanh"
_FOUR_NORMS = Names(
    attention_post_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
)
_INERT = ("cache_implementation", "hidden_act", "hidden_activation")


def read_gemma(config: Config) -> Decoder:
    """Read GemmaForCausalLM's config.json."""
    return _read(config, activation="hidden_act", rope=RopeFields())


def read_gemma2(config: Config) -> Decoder:
    """Read Gemma2ForCausalLM's config.json: caps, and every second layer looks back a window."""
    decoder = _read(config, activation="hidden_activation", rope=RopeFields())
    scale = config.number("query_pre_attn_scalar", 256) ** -0.5
    cap = config.number_or_none("attn_logit_softcapping", 50.0) or 0.0
    width = config.integer("sliding_window", 4096)
    windows = read_windows(config, len(decoder.layers), width, lambda index: index % 2 == 0)
    return replace(
        decoder,
        names=_FOUR_NORMS,
        attention=replace(decoder.attention, scale=scale, softcap=cap),
        layers=tuple(Layer(window=window) for window in windows),
        logits_cap=config.number_or_none("final_logit_softcapping", 30.0) or 0.0,
    )


def read_gemma3(config: Config) -> Decoder:
    """Read Gemma3ForCausalLM's config.json: local layers have a window and a base of their own."""
    config.only("use_bidirectional_attention", False)
    decoder = _read(config, activation="hidden_activation", rope=RopeFields(default_base=1e6))
    attention = decoder.attention
    scale = config.number("query_pre_attn_scalar", 256) ** -0.5
    every = config.integer("sliding_window_pattern", 6)
    width = config.integer("sliding_window", 4096)
    windows = read_windows(
        config, len(decoder.layers), width, lambda index: (index + 1) % every > 0
    )
    base = config.number("rope_local_base_freq", 10000.0)
    local = Rope(tuple(frequencies(base, attention.head).tolist()), 1.0, decoder.context)
    return replace(
        decoder,
        names=_FOUR_NORMS,
        attention=replace(attention, scale=scale, head_norms=HEAD_NORMS),
        layers=tuple(Layer("local_rope" if window else "rope", window) for window in windows),
        ropes={**decoder.ropes, "local_rope": local},
        logits_cap=config.number_or_none("final_logit_softcapping") or 0.0,
    )


def _read(config: Config, *, activation: str, rope: RopeFields) -> Decoder:
    config.inert(*_INERT)
    bias = config.flag("attention_bias", default=False)
    decoder = read_base(
        config,
        attention=read_attention(config, bias=bias, head=256),
        ffn=read_ffn(config, field=activation, default=_TANH),
        rope=rope,
        tied=True,
    )
    return replace(decoder, norm=Norm.SHIFTED_RMS, words_factor=math.sqrt(decoder.hidden))
