"""Checkpoints → GGUF files as llama.cpp's converter writes them, for tests of reading them back.

Names come from the gguf package's own map, so that a slip in lmonnx's table is not made twice.

Source:
    llama.cpp, conversion/*.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import (
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    RopeScalingType,
    TokenType,
    get_tensor_name_map,
    quants,
)

from tests.tiny_tensors import Arrays

Config = Mapping[str, Any]
ARCHITECTURES = {"gpt_neox": "gptneox", "gemma3_text": "gemma3", "mistral": "llama"}
PERMUTED = ("llama", "smollm3", "granite")


def write_gguf(
    path: Path,
    config: Config,
    arrays: Arrays,
    text: Mapping[str, Any],
    *,
    quantized: GGMLQuantizationType | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint.

    Args:
        path: The file.
        config: config.json, every field stated.
        arrays: By transformers' names.
        text: The keys of the tokenizer.
        quantized: The type of matrices; None leaves float32.
        extra: Further keys, of any kind.
    """
    family = config["model_type"]
    architecture = ARCHITECTURES.get(family, family)
    writer = GGUFWriter(str(path), architecture)
    _KEYS[architecture](writer, config)
    add_keys(writer, {**text, **(extra or {})})
    layers = config.get("num_hidden_layers") or config["n_layer"]
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    names = get_tensor_name_map(kind, layers)
    for name, array in {**arrays, **_factors(architecture, config)}.items():
        place = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        stored = np.ascontiguousarray(_converted(architecture, config, name, array))
        if quantized is not None and stored.ndim == 2:
            writer.add_tensor(place, quants.quantize(stored, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(place, stored.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_keys(writer: GGUFWriter, values: Mapping[str, Any]) -> None:
    """Add keys, each as the type that its value has."""
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in values.items():
        add[type(value)](key, value)


# Tokenizers --------------------------------------------------------------------------------------


def byte_level_text(
    tokenizer: Mapping[str, Any], pre: str, rows: int, **ids: int
) -> dict[str, Any]:
    """Return the keys of a byte-level tokenizer.json; `ids` are bos, eos, unknown, padding."""
    pieces = {**tokenizer["model"]["vocab"]}
    types = dict.fromkeys(pieces.values(), TokenType.NORMAL)
    for token in tokenizer["added_tokens"]:
        pieces[token["content"]] = token["id"]
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        types[token["id"]] = kind
    by_id = {index: piece for piece, index in pieces.items()}
    merges = tokenizer["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [by_id.get(i, f"[PAD{i}]") for i in range(rows)],
        "tokenizer.ggml.token_type": [int(types.get(i, TokenType.UNUSED)) for i in range(rows)],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        **{f"tokenizer.ggml.{role}_token_id": index for role, index in ids.items()},
    }


def scored_text(pieces: list[tuple[str, float, TokenType]], **ids: int) -> dict[str, Any]:
    """Return the keys of a SentencePiece model."""
    tokens, scores, types = zip(*pieces, strict=True)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.scores": [float(score) for score in scores],
        "tokenizer.ggml.token_type": [int(kind) for kind in types],
        **{f"tokenizer.ggml.{role}_token_id": index for role, index in ids.items()},
    }


def _converted(architecture: str, config: Config, name: str, array: np.ndarray) -> np.ndarray:
    if architecture in PERMUTED and name.endswith(("q_proj.weight", "q_proj.bias")):
        return _permuted(array, config["num_attention_heads"])
    if architecture in PERMUTED and name.endswith(("k_proj.weight", "k_proj.bias")):
        return _permuted(array, config["num_key_value_heads"])
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    if architecture == "gpt2" and name.endswith(
        (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    ):
        return array.T
    if "query_key_value" in name:
        heads = config["num_attention_heads"]
        split = array.reshape(heads, 3, -1, *array.shape[1:])
        return np.concatenate([split[:, i].reshape(-1, *array.shape[1:]) for i in range(3)])
    return array


def _permuted(array: np.ndarray, heads: int) -> np.ndarray:
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def _factors(architecture: str, config: Config) -> Arrays:
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "longrope":
        return {
            f"rope_factors_{name}.weight": np.array(scaling[f"{name}_factor"], np.float32)
            for name in ("long", "short")
        }
    if kind != "llama3":
        return {}
    dims = config["head_dim"]
    waves = 2 * np.pi * config["rope_theta"] ** (np.arange(0, dims, 2) / dims)
    factor, original = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    found = []
    for wave in waves:
        smooth = (original / wave - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        ends = {wave < original / high: 1.0, wave > original / low: factor}
        found.append(ends.get(True, between))
    return {"rope_freqs.weight": np.array(found, np.float32)}


# Keys --------------------------------------------------------------------------------------------


def _sizes(writer: GGUFWriter, config: Config) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])


def _base(writer: GGUFWriter, config: Config) -> None:
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if head := config.get("head_dim"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        for name, add in (
            ("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
            ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
            ("beta_slow", writer.add_rope_scaling_yarn_beta_slow),
        ):
            if name in scaling:
                add(scaling[name])


def _llama(writer: GGUFWriter, config: Config) -> None:
    _base(writer, config)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(
        config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    )


def _granite(writer: GGUFWriter, config: Config) -> None:
    _llama(writer, config)
    writer.add_attention_scale(config["attention_multiplier"])
    writer.add_embedding_scale(config["embedding_multiplier"])
    writer.add_residual_scale(config["residual_multiplier"])
    writer.add_logit_scale(config["logits_scaling"])


def _gemma(writer: GGUFWriter, config: Config) -> None:
    _sizes(writer, config)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])


def _gemma2(writer: GGUFWriter, config: Config) -> None:
    _gemma(writer, config)
    writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
    writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    writer.add_sliding_window(config["sliding_window"])


def _gemma3(writer: GGUFWriter, config: Config) -> None:
    _base(writer, config)
    if cap := config.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(cap)
    writer.add_sliding_window(config["sliding_window"])
    if local := config.get("rope_local_base_freq"):
        writer.add_rope_freq_base_swa(local)


def _phi3(writer: GGUFWriter, config: Config) -> None:
    heads, share = config["num_attention_heads"], config["partial_rotary_factor"]
    context, original = (config[f"{o}max_position_embeddings"] for o in ("", "original_"))
    _sizes(writer, config)
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(int(share * config["hidden_size"]) // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_sliding_window(config["sliding_window"] or 0)
    if config["rope_scaling"]:
        scale = context / original
        factor = np.sqrt(1 + np.log(scale) / np.log(original)) if scale > 1 else 1.0
        writer.add_rope_scaling_attn_factors(float(factor))


def _gpt2(writer: GGUFWriter, config: Config) -> None:
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])


def _gptneox(writer: GGUFWriter, config: Config) -> None:
    head = config["hidden_size"] // config["num_attention_heads"]
    _sizes(writer, config)
    writer.add_rope_dimension_count(int(config["rotary_pct"] * head))
    writer.add_parallel_residual(config["use_parallel_residual"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])


_KEYS: dict[str, Callable[[GGUFWriter, Config], None]] = {
    "llama": _llama,
    "smollm3": _llama,
    "granite": _granite,
    "qwen2": _base,
    "qwen3": _base,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "gpt2": _gpt2,
    "gptneox": _gptneox,
}


def read_json(path: Path) -> Any:
    """Return what a file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
