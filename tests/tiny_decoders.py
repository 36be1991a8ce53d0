"""Seeded decoder checkpoints of a few layers, written as Hugging Face folders without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests import tiny_text
from tests.tiny import write_weights
from tests.tiny_tensors import Arrays, Draw
from tests.tiny_text import byte_pieces, write_json

CONTEXT, VOCABULARY = 64, len(byte_pieces())
LLAMA: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
GPT2: Mapping[str, Any] = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": CONTEXT,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
SETTINGS = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


def llama(config: Mapping[str, Any], seed: int) -> Arrays:
    """Draw LlamaForCausalLM's tensors; those of Mistral, and of Qwen but for what it adds."""
    draw, hidden, wide = Draw(seed), config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    draw.put("model.embed_tokens.weight", config["vocab_size"], hidden, scale=0.5)
    outs = {"q": "num_attention_heads", "k": "num_key_value_heads", "v": "num_key_value_heads"}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for part, count in outs.items():
            out, bias = config[count] * head, config.get("attention_bias", False)
            draw.part(f"{at}.self_attn.{part}_proj", out, hidden, bias=bias)
        draw.part(
            f"{at}.self_attn.o_proj", hidden, config["num_attention_heads"] * head, bias=False
        )
        for part in ("gate", "up"):
            draw.part(f"{at}.mlp.{part}_proj", wide, hidden, bias=False)
        draw.part(f"{at}.mlp.down_proj", hidden, wide, bias=False)
        for part in ("input_layernorm", "post_attention_layernorm"):
            draw.part(f"{at}.{part}", hidden, bias=False)
    draw.part("model.norm", hidden, bias=False)
    if not config["tie_word_embeddings"]:
        draw.part("lm_head", config["vocab_size"], hidden, bias=False)
    return draw.arrays


def gpt2(config: Mapping[str, Any], seed: int) -> Arrays:
    """Draw GPT2LMHeadModel's tensors."""
    draw, hidden = Draw(seed), config["n_embd"]
    draw.put("transformer.wte.weight", config["vocab_size"], hidden, scale=0.5)
    draw.put("transformer.wpe.weight", config["n_positions"], hidden, scale=0.5)
    for layer in range(config["n_layer"]):
        at = f"transformer.h.{layer}"
        for part, wide, out in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            draw.put(f"{at}.{part}.weight", wide, out, scale=1.5 / wide**0.5)
            draw.put(f"{at}.{part}.bias", out, scale=0.1)
        for part in ("ln_1", "ln_2"):
            draw.norm(f"{at}.{part}", hidden)
    draw.norm("transformer.ln_f", hidden)
    return draw.arrays


def writer(
    defaults: Mapping[str, Any], tensors: Callable[[Mapping[str, Any], int], Arrays]
) -> Callable[..., Path]:
    def write(
        folder: Path,
        *,
        seed: int = 0,
        form: str = "safetensors",
        settings: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
        edit: Callable[[Arrays], Any] | None = None,
        **changes: Any,
    ) -> Path:
        """Write a checkpoint; return its folder.

        Args:
            folder: Made if it is not there.
            seed: Of the weights.
            form: See `tiny.write_weights`.
            settings: What differs in tokenizer_config.json.
            files: More JSON files by name.
            edit: Called with the tensors before they are written.
            changes: Fields of config.json that differ.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = {**defaults, **changes}
        arrays = tensors(config, seed)
        if edit:
            edit(arrays)
        write_json(folder / "config.json", config)
        write_json(folder / "tokenizer_config.json", {**SETTINGS, **(settings or {})})
        for name, value in (files or {}).items():
            write_json(folder / name, value)
        tiny_text.write_byte_bpe(folder, "json")
        write_weights(folder, arrays, form)
        return folder

    return write


write_llama = writer(LLAMA, llama)
write_gpt2 = writer(GPT2, gpt2)
