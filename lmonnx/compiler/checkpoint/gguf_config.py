"""A GGUF file's keys → config.json in the words of transformers 4.57, one function a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmonnx.compiler.checkpoint.gguf_fields import Fields
from lmonnx.compiler.checkpoint.gguf_model import Source
from lmonnx.compiler.checkpoint.gguf_rope import long_scaling
from lmonnx.errors import StageError, UnsupportedError

MAX_LAYERS = 4096
INERT = frozenset({"vocab_size", "tensor_data_layout"})
# Keys that the converter copies from any config.json and that these graphs do not read.
INERT_WITH_RMS = INERT | {"attention.layer_norm_epsilon", "rope.scaling.finetuned"}

Config = dict[str, Any]


def _common(source: Source) -> Config:
    """Return what every family with RMS norms has, but for its rotary positions."""
    fields = source.fields
    hidden = fields.integer("embedding_length")
    heads = fields.integer("attention.head_count")
    head = fields.integer("attention.key_length", hidden // heads)
    fields.only("attention.value_length", value=head)
    if head % 2:
        raise StageError(f"{fields.path}: heads of {head} cannot rotate; the file is damaged")
    _refuse_others(fields)
    return {
        "hidden_size": hidden,
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": fields.integer("block_count", most=MAX_LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": fields.integer("attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": fields.integer("context_length"),
        "rms_norm_eps": fields.positive("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.positive("rope.freq_base", 10000.0),
        "vocab_size": source.rows("token_embd.weight"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
    }


def _refuse_others(fields: Fields) -> None:
    for name, value in (
        ("expert_count", 0),
        ("expert_used_count", 0),
        ("attention.causal", True),
        ("pooling_type", 0),
    ):
        fields.only(name, value=value)


def _rotary(source: Source) -> Config:
    """Return the common fields of a family whose heads rotate whole."""
    config = _common(source)
    source.fields.only("rope.dimension_count", value=config["head_dim"])
    config["rope_scaling"] = source.scaling(config["rope_theta"], config["head_dim"])
    return config


def _llama(source: Source) -> Config:
    return {
        **_rotary(source),
        "hidden_act": "silu",
        "attention_bias": source.has_bias("attn_q", "attn_k", "attn_v", "attn_output"),
        "mlp_bias": source.has_bias("ffn_gate", "ffn_up", "ffn_down"),
    }


def _smollm3(source: Source) -> Config:
    config = _llama(source)
    layers = config["num_hidden_layers"]
    # llama.cpp has the interval in its code: no key says it.
    config["no_rope_layer_interval"] = 4
    config["no_rope_layers"] = [int((layer + 1) % 4 != 0) for layer in range(layers)]
    config["use_sliding_window"] = False
    return config


def _granite(source: Source) -> Config:
    fields = source.fields
    config = _llama(source)
    fields.only("rope.scaling.finetuned", value=True)
    config["attention_multiplier"] = (
        fields.number("attention.scale", 0.0) or config["head_dim"] ** -0.5
    )
    config["embedding_multiplier"] = fields.number("embedding_scale", 0.0) or 1.0
    config["residual_multiplier"] = fields.number("residual_scale", 0.0) or 1.0
    config["logits_scaling"] = fields.positive("logit_scale")
    return config


def _qwen2(source: Source) -> Config:
    return {**_rotary(source), "hidden_act": "silu", "use_sliding_window": False}


def _qwen3(source: Source) -> Config:
    bias = source.has_bias("attn_q", "attn_k", "attn_v", "attn_output")
    return {**_qwen2(source), "attention_bias": bias}


def _gemma(source: Source) -> Config:
    return {**_rotary(source), "hidden_act": "gelu_pytorch_tanh", "attention_bias": False}


def _gemma_scalar(config: Config, largest: int) -> int:
    """Return query_pre_attn_scalar; the family's largest model divides by other than its head size.

    Source:
        llama.cpp, `load_arch_hparams` of gemma2 and gemma3: no key says it.
    """
    if config["num_hidden_layers"] == largest:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _windows(config: Config, every: int) -> list[str]:
    """Return `layer_types`: one of `every` layers sees everything."""
    kinds = ("full_attention", "sliding_attention")
    return [kinds[(layer + 1) % every != 0] for layer in range(config["num_hidden_layers"])]


def _gemma2(source: Source) -> Config:
    fields = source.fields
    config = _rotary(source)
    fields.only("rope.freq_base_swa", value=config["rope_theta"])
    fields.only("attention.sliding_window_pattern", value=2)
    return {
        **config,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attn_logit_softcapping": fields.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": fields.number("final_logit_softcapping", 30.0),
        "sliding_window": fields.integer("attention.sliding_window", 4096),
        "query_pre_attn_scalar": _gemma_scalar(config, 46),
        "layer_types": _windows(config, 2),
    }


def _gemma3(source: Source) -> Config:
    fields = source.fields
    config = _rotary(source)
    window = fields.integer("attention.sliding_window", 0, least=0)
    every = fields.integer("attention.sliding_window_pattern", 6, most=MAX_LAYERS)
    return {
        **config,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "final_logit_softcapping": fields.number("final_logit_softcapping", 0.0) or None,
        # Where no layer has a window the size is not read.
        "sliding_window": window or 4096,
        "layer_types": _windows(config, every if window else 1),
        "rope_local_base_freq": fields.positive("rope.freq_base_swa", 10000.0),
        "query_pre_attn_scalar": _gemma_scalar(config, 62),
    }


def _phi3(source: Source) -> Config:
    fields = source.fields
    config = _common(source)
    context = config["max_position_embeddings"]
    dims = fields.integer("rope.dimension_count", config["head_dim"], most=config["head_dim"])
    factors = {
        name: source.vector(f"rope_factors_{name}.weight")
        for name in ("long", "short")
        if f"rope_factors_{name}.weight" in source.tensors
    }
    return {
        **config,
        "hidden_act": "silu",
        "partial_rotary_factor": dims / config["head_dim"],
        "original_max_position_embeddings": fields.integer(
            "rope.scaling.original_context_length", context
        ),
        "rope_scaling": long_scaling(fields, factors, context),
        "sliding_window": fields.integer("attention.sliding_window", 0, least=0) or None,
    }


def _gpt2(source: Source) -> Config:
    fields = source.fields
    _refuse_others(fields)
    heads = fields.integer("attention.head_count")
    fields.only("attention.head_count_kv", value=heads)
    fields.integer("context_length")
    return {
        "n_embd": fields.integer("embedding_length"),
        "n_layer": fields.integer("block_count", most=MAX_LAYERS),
        "n_head": heads,
        "n_inner": fields.integer("feed_forward_length"),
        "n_positions": source.rows("position_embd.weight"),
        "layer_norm_epsilon": fields.positive("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "vocab_size": source.rows("token_embd.weight"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
    }


def _gpt_neox(source: Source) -> Config:
    fields = source.fields
    _refuse_others(fields)
    hidden, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    fields.only("attention.head_count_kv", value=heads)
    head = hidden // heads
    theta = fields.positive("rope.freq_base", 10000.0)
    dims = fields.integer("rope.dimension_count", head, most=head)
    return {
        "hidden_size": hidden,
        "intermediate_size": fields.integer("feed_forward_length"),
        "num_hidden_layers": fields.integer("block_count", most=MAX_LAYERS),
        "num_attention_heads": heads,
        "max_position_embeddings": fields.integer("context_length"),
        "layer_norm_eps": fields.positive("attention.layer_norm_epsilon"),
        "rotary_pct": dims / head,
        "rotary_emb_base": theta,
        "rope_scaling": source.scaling(theta, dims),
        "use_parallel_residual": fields.flag("use_parallel_residual", default=True),
        "hidden_act": "gelu",
        "attention_bias": True,
        "vocab_size": source.rows("token_embd.weight"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
    }


@dataclass(frozen=True, slots=True)
class Family:
    """What transformers calls an architecture of llama.cpp, and how its config is made."""

    model_type: str
    model_class: str
    config: Callable[[Source], Config]
    inert: frozenset[str] = INERT_WITH_RMS


FAMILIES: dict[str, Family] = {
    "llama": Family("llama", "LlamaForCausalLM", _llama),
    "smollm3": Family("smollm3", "SmolLM3ForCausalLM", _smollm3),
    "granite": Family("granite", "GraniteForCausalLM", _granite),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM", _qwen2),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", _qwen3),
    "gemma": Family("gemma", "GemmaForCausalLM", _gemma),
    "gemma2": Family("gemma2", "Gemma2ForCausalLM", _gemma2),
    "gemma3": Family("gemma3_text", "Gemma3ForCausalLM", _gemma3),
    "phi3": Family("phi3", "Phi3ForCausalLM", _phi3),
    "gpt2": Family("gpt2", "GPT2LMHeadModel", _gpt2, INERT),
    "gptneox": Family("gpt_neox", "GPTNeoXForCausalLM", _gpt_neox, INERT),
}


def make_config(architecture: str, source: Source) -> Config:
    """Return config.json of a file, without the ids of its special tokens.

    Raises:
        UnsupportedError: The architecture, or something its keys say, has no counterpart.
        StageError: A key is missing or says nonsense.
    """
    if architecture not in FAMILIES:
        raise UnsupportedError(
            f"{source.fields.path}: the architecture {architecture!r:.40} is not read from GGUF,"
            f" only {', '.join(FAMILIES)}; export the original checkpoint instead"
        )
    family = FAMILIES[architecture]
    config = {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        **family.config(source),
    }
    source.fields.finish(family.inert)
    return config
