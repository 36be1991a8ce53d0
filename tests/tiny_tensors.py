"""The tensors of the tiny encoders: seeded, under torch's names, exact in bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]


class Draw:
    """Seeded tensors in the order they are asked for, under torch's names."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.arrays: Arrays = {}

    def put(self, name: str, *shape: int, scale: float, center: float = 0.0) -> None:
        drawn = (self._rng.standard_normal(shape) * scale + center).astype(np.float32)
        # Below 2^-10 float16 keeps fewer bits than bfloat16.
        drawn[np.abs(drawn) < 2**-10] = 0
        self.arrays[name] = drawn.astype(ml_dtypes.bfloat16).astype(np.float32)

    def linear(self, name: str, out: int, wide: int, *, scale: float = 1.5) -> None:
        self.put(f"{name}.weight", out, wide, scale=scale / wide**0.5)
        self.put(f"{name}.bias", out, scale=0.1)

    def norm(self, name: str, size: int) -> None:
        self.put(f"{name}.weight", size, scale=0.1, center=1.0)
        self.put(f"{name}.bias", size, scale=0.1)

    def part(self, name: str, *shape: int, bias: bool) -> None:
        """Draw a linear layer or a norm that may lack its bias."""
        draw = self.linear if len(shape) == 2 else self.norm
        draw(name, *shape)
        if not bias:
            self.arrays.pop(f"{name}.bias")

    def embeddings(self, at: str, config: Mapping[str, Any], size: int) -> None:
        for name, field in (
            ("word", "vocab_size"),
            ("position", "max_position_embeddings"),
            ("token_type", "type_vocab_size"),
        ):
            if field in config:
                self.put(f"{at}{name}_embeddings.weight", config[field], size, scale=0.5)
        self.norm(f"{at}LayerNorm", size)


def bert(config: Mapping[str, Any], seed: int, prefix: str = "bert.") -> Draw:
    """Draw the encoder that BERT, RoBERTa and ELECTRA share."""
    draw, size, wide = Draw(seed), config["hidden_size"], config["intermediate_size"]
    narrow = config.get("embedding_size", size)
    draw.embeddings(f"{prefix}embeddings.", config, narrow)
    if narrow != size:
        draw.linear(f"{prefix}embeddings_project", size, narrow)
    for layer in range(config["num_hidden_layers"]):
        at = f"{prefix}encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            draw.linear(f"{at}attention.self.{name}", size, size)
        draw.linear(f"{at}attention.output.dense", size, size)
        draw.norm(f"{at}attention.output.LayerNorm", size)
        draw.linear(f"{at}intermediate.dense", wide, size)
        draw.linear(f"{at}output.dense", size, wide)
        draw.norm(f"{at}output.LayerNorm", size)
    return draw


def roberta(config: Mapping[str, Any], seed: int) -> Draw:
    return bert(config, seed, "roberta.")


def electra(config: Mapping[str, Any], seed: int) -> Draw:
    return bert(config, seed, "electra.")


def classes(config: Mapping[str, Any]) -> int:
    """Return how many logits the head of `config` has."""
    return len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)


def distilbert(config: Mapping[str, Any], seed: int) -> Draw:
    draw, size, wide = Draw(seed), config["dim"], config["hidden_dim"]
    at = "distilbert.embeddings."
    draw.put(f"{at}word_embeddings.weight", config["vocab_size"], size, scale=0.5)
    rows = config["max_position_embeddings"]
    draw.put(f"{at}position_embeddings.weight", rows, size, scale=0.5)
    draw.norm(f"{at}LayerNorm", size)
    for layer in range(config["n_layers"]):
        at = f"distilbert.transformer.layer.{layer}."
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            draw.linear(f"{at}attention.{name}", size, size)
        draw.norm(f"{at}sa_layer_norm", size)
        draw.linear(f"{at}ffn.lin1", wide, size)
        draw.linear(f"{at}ffn.lin2", size, wide)
        draw.norm(f"{at}output_layer_norm", size)
    return draw


def albert(config: Mapping[str, Any], seed: int) -> Draw:
    draw, size, wide = Draw(seed), config["hidden_size"], config["intermediate_size"]
    narrow = config["embedding_size"]
    draw.embeddings("albert.embeddings.", config, narrow)
    draw.linear("albert.encoder.embedding_hidden_mapping_in", size, narrow)
    for group in range(config["num_hidden_groups"]):
        for part in range(config["inner_group_num"]):
            at = f"albert.encoder.albert_layer_groups.{group}.albert_layers.{part}."
            for name in ("query", "key", "value", "dense"):
                draw.linear(f"{at}attention.{name}", size, size)
            draw.norm(f"{at}attention.LayerNorm", size)
            draw.linear(f"{at}ffn", wide, size)
            draw.linear(f"{at}ffn_output", size, wide)
            draw.norm(f"{at}full_layer_layer_norm", size)
    return draw


def mpnet(config: Mapping[str, Any], seed: int) -> Draw:
    draw, size, wide = Draw(seed), config["hidden_size"], config["intermediate_size"]
    draw.embeddings("mpnet.embeddings.", config, size)
    buckets, heads = config["relative_attention_num_buckets"], config["num_attention_heads"]
    draw.put("mpnet.encoder.relative_attention_bias.weight", buckets, heads, scale=1.0)
    for layer in range(config["num_hidden_layers"]):
        at = f"mpnet.encoder.layer.{layer}."
        for name in "qkvo":
            draw.linear(f"{at}attention.attn.{name}", size, size)
        draw.norm(f"{at}attention.LayerNorm", size)
        draw.linear(f"{at}intermediate.dense", wide, size)
        draw.linear(f"{at}output.dense", size, wide)
        draw.norm(f"{at}output.LayerNorm", size)
    return draw
