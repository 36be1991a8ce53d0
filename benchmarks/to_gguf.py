"""Writes a Llama checkpoint with a byte-level BPE tokenizer as GGUF, as llama.cpp's script does."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

TYPES = {"f32": np.float32, "f16": np.float16}
PLACES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
CONTROL, NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL


def place_of(name: str) -> str:
    """Return GGUF's name of a tensor."""
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, *part, _ = name.split(".")
    return f"blk.{layer}.{PLACES['.'.join(part)]}.weight"


def interleaved(weights: NDArray[Any], heads: int) -> NDArray[Any]:
    """Put the halves of each rotary pair side by side: (heads·D, E) → the same shape."""
    halves = weights.reshape(heads, 2, -1, weights.shape[1])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def add_config(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """Write what llama.cpp needs to know of the model."""
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: gguf.GGUFWriter, source: Path, config: dict[str, Any], pre: str) -> None:
    """Write the vocabulary, its merges and the special ids."""
    stored = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = {index: token for token, index in stored["model"]["vocab"].items()}
    special = {t["id"]: t["content"] for t in stored["added_tokens"] if t["special"]}
    tokens |= special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([tokens[index] for index in range(config["vocab_size"])])
    kinds = [CONTROL if index in special else NORMAL for index in range(config["vocab_size"])]
    writer.add_token_types(kinds)
    merges = stored["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(value=False)


def write(source: Path, target: Path, kind: str, pre: str) -> None:
    """Write the GGUF; vectors stay in float32, as llama.cpp has them."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(target, "llama")
    add_config(writer, config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else 0)
    add_tokenizer(writer, source, config, pre)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with safe_open(source / "model.safetensors", "np") as stored:
        for name in list(stored.keys()):
            weights = stored.get_tensor(name)
            rotary = heads.get(name.split(".")[-2])
            moved = interleaved(weights, rotary) if rotary else weights
            dtype = TYPES[kind] if moved.ndim > 1 else np.float32
            writer.add_tensor(place_of(name), np.ascontiguousarray(moved, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Read the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--type", choices=sorted(TYPES), default="f16")
    parser.add_argument("--pre", default="smollm", help="llama.cpp's name of the pre-tokenizer")
    options = parser.parse_args()
    write(options.checkpoint, options.output, options.type, options.pre)


if __name__ == "__main__":
    main()
