"""Seeded encoder-decoder checkpoints of a few layers, written as Hugging Face folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.tiny_decoders import writer
from tests.tiny_tensors import Arrays, Draw
from tests.tiny_text import byte_pieces

CONTEXT, VOCABULARY = 24, len(byte_pieces())
MARIAN: Mapping[str, Any] = {
    "architectures": ["MarianMTModel"],
    "model_type": "marian",
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "activation_function": "swish",
    "max_position_embeddings": CONTEXT,
    "scale_embedding": True,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 2,
    "is_encoder_decoder": True,
}
T5: Mapping[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "is_encoder_decoder": True,
}


def marian(config: Mapping[str, Any], seed: int) -> Arrays:
    """Draw MarianMTModel's tensors: one table of words, no tables of positions."""
    draw, hidden = Draw(seed), config["d_model"]
    draw.put("model.shared.weight", config["vocab_size"], hidden, scale=0.3)
    draw.put("final_logits_bias", 1, config["vocab_size"], scale=0.5)
    for side, attentions in (
        ("encoder", ["self_attn"]),
        ("decoder", ["self_attn", "encoder_attn"]),
    ):
        wide = config[f"{side}_ffn_dim"]
        for layer in range(config[f"{side}_layers"]):
            at = f"model.{side}.layers.{layer}"
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    draw.linear(f"{at}.{attention}.{part}", hidden, hidden)
                draw.norm(f"{at}.{attention}_layer_norm", hidden)
            draw.linear(f"{at}.fc1", wide, hidden)
            draw.linear(f"{at}.fc2", hidden, wide)
            draw.norm(f"{at}.final_layer_norm", hidden)
    return draw.arrays


def t5(config: Mapping[str, Any], seed: int) -> Arrays:
    """Draw T5ForConditionalGeneration's tensors, gated and tied."""
    draw, hidden, wide = Draw(seed), config["d_model"], config["d_ff"]
    inner, buckets = config["num_heads"] * config["d_kv"], config["relative_attention_num_buckets"]
    draw.put("shared.weight", config["vocab_size"], hidden, scale=1.0)
    for side, parts in (
        ("encoder", ["SelfAttention"]),
        ("decoder", ["SelfAttention", "EncDecAttention"]),
    ):
        table = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        draw.put(table, buckets, config["num_heads"], scale=1.0)
        for layer in range(config["num_layers"]):
            at = f"{side}.block.{layer}.layer"
            for index, part in enumerate(parts):
                for name in "qkv":
                    draw.part(f"{at}.{index}.{part}.{name}", inner, hidden, bias=False)
                draw.part(f"{at}.{index}.{part}.o", hidden, inner, bias=False)
                draw.part(f"{at}.{index}.layer_norm", hidden, bias=False)
            last = f"{at}.{len(parts)}"
            for name in ("wi_0", "wi_1"):
                draw.part(f"{last}.DenseReluDense.{name}", wide, hidden, bias=False)
            draw.part(f"{last}.DenseReluDense.wo", hidden, wide, bias=False)
            draw.part(f"{last}.layer_norm", hidden, bias=False)
        draw.part(f"{side}.final_layer_norm", hidden, bias=False)
    return draw.arrays


write_marian = writer(MARIAN, marian)
write_t5 = writer(T5, t5)
