"""Tiny decoders of every family that GGUF files hold: config.json and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.tiny_tensors import Arrays, Draw

VOCABULARY = 280

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
_RMS = {
    **_SIZES,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
}
_SILU = {**_RMS, "hidden_act": "silu"}
_LLAMA = {**_SILU, "attention_bias": False, "mlp_bias": False}
_GEMMA = {**_RMS, "head_dim": 16, "attention_bias": False}
_TANH = {"hidden_activation": "gelu_pytorch_tanh"}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "smollm3": {
        **_LLAMA,
        "num_hidden_layers": 5,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0, 1],
        "use_sliding_window": False,
    },
    "granite": {
        **_LLAMA,
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    },
    "qwen2": {**_SILU, "use_sliding_window": False},
    "qwen3": {**_SILU, "head_dim": 16, "use_sliding_window": False, "attention_bias": False},
    "gemma": {**_GEMMA, "hidden_act": "gelu_pytorch_tanh"},
    "gemma2": {
        **_GEMMA,
        **_TANH,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 5,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "gemma3_text": {
        **_GEMMA,
        **_TANH,
        "rope_theta": 1000000.0,
        "final_logit_softcapping": None,
        "sliding_window": 5,
        "rope_local_base_freq": 10000.0,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention"] * 3,
    },
    "phi3": {
        **_SILU,
        "partial_rotary_factor": 1.0,
        "original_max_position_embeddings": 64,
        "sliding_window": None,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_inner": 128,
        "n_positions": 64,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
    },
    "gpt_neox": {
        **_SIZES,
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.5,
        "rotary_emb_base": 10000.0,
        "rope_scaling": None,
        "use_parallel_residual": False,
        "hidden_act": "gelu",
        "attention_bias": True,
    },
}
_PRODUCTS = {
    "gpt2": {
        "attn.c_attn": (1, 3),
        "attn.c_proj": (1, 1),
        "mlp.c_fc": (1, 4),
        "mlp.c_proj": (4, 1),
    },
    "gpt_neox": {
        "attention.query_key_value": (3, 1),
        "attention.dense": (1, 1),
        "mlp.dense_h_to_4h": (2, 1),
        "mlp.dense_4h_to_h": (1, 2),
    },
}


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    """Return a family's config.json."""
    return {"model_type": family, **CONFIGS[family], **changes}


def arrays_of(config: Mapping[str, Any], seed: int = 5) -> Arrays:
    """Return a checkpoint's tensors."""
    draw = Draw(seed)
    if config["model_type"] == "gpt2":
        draw.put("transformer.wpe.weight", config["n_positions"], config["n_embd"], scale=0.5)
        _layer_normed(draw, config, "transformer", ("wte", "h", "ln_1", "ln_2", "ln_f"), "lm_head")
    elif config["model_type"] == "gpt_neox":
        norms = ("input_layernorm", "post_attention_layernorm", "final_layer_norm")
        _layer_normed(draw, config, "gpt_neox", ("embed_in", "layers", *norms), "embed_out")
    else:
        _rms_normed(draw, config)
    return draw.arrays


def _layer_normed(
    draw: Draw, config: Mapping[str, Any], at: str, names: tuple[str, ...], head: str
) -> None:
    words, layers, *norms, last = names
    size = config.get("n_embd") or config["hidden_size"]
    draw.put(f"{at}.{words}.weight", config["vocab_size"], size, scale=0.5)
    products = _PRODUCTS[config["model_type"]]
    for layer in range(config.get("n_layer") or config["num_hidden_layers"]):
        for norm in norms:
            draw.norm(f"{at}.{layers}.{layer}.{norm}", size)
        for name, (rows, columns) in products.items():
            place = f"{at}.{layers}.{layer}.{name}"
            draw.put(f"{place}.weight", rows * size, columns * size, scale=0.2)
            out = columns if config["model_type"] == "gpt2" else rows
            draw.put(f"{place}.bias", out * size, scale=0.1)
    draw.norm(f"{at}.{last}", size)
    if not config["tie_word_embeddings"]:
        draw.put(f"{head}.weight", config["vocab_size"], size, scale=0.5)


def _rms_normed(draw: Draw, config: Mapping[str, Any]) -> None:
    size = config["hidden_size"]
    draw.put("model.embed_tokens.weight", config["vocab_size"], size, scale=0.5)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, (rows, columns, bias) in _products(config).items():
            draw.part(f"{at}.{name}", rows, columns, bias=bias)
        for name, width in _norms(config).items():
            draw.put(f"{at}.{name}.weight", width, scale=0.1, center=1.0)
    draw.put("model.norm.weight", size, scale=0.1, center=1.0)
    if not config["tie_word_embeddings"]:
        draw.put("lm_head.weight", config["vocab_size"], size, scale=0.5)


def _products(config: Mapping[str, Any]) -> dict[str, tuple[int, int, bool]]:
    size, wide, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    bias, mlp = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    both = {"self_attn.o_proj": (size, q, bias), "mlp.down_proj": (size, wide, mlp)}
    if config["model_type"] == "phi3":
        stacked = {"self_attn.qkv_proj": (q + 2 * kv, size, False)}
        return {**both, **stacked, "mlp.gate_up_proj": (2 * wide, size, False)}
    qkv = {"q": q, "k": kv, "v": kv}
    inner = bias or config["model_type"] == "qwen2"
    return {
        **both,
        **{f"self_attn.{name}_proj": (rows, size, inner) for name, rows in qkv.items()},
        **{f"mlp.{name}_proj": (wide, size, mlp) for name in ("gate", "up")},
    }


def _norms(config: Mapping[str, Any]) -> dict[str, int]:
    size, head, family = config["hidden_size"], config["head_dim"], config["model_type"]
    found = {"input_layernorm": size, "post_attention_layernorm": size}
    if family in ("gemma2", "gemma3_text"):
        found |= {"pre_feedforward_layernorm": size, "post_feedforward_layernorm": size}
    if family in ("qwen3", "gemma3_text"):
        found |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    return found
