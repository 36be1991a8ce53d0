"""Tiny checkpoints of families that are no BERT: ModernBERT, and DeBERTa v2 and v3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import tiny
from tests.tiny_tensors import Draw
from tests.tiny_text import WORDPIECES, wordpiece_tokenizer

E, FFN, HEADS, POSITIONS = 32, 48, 4, 64

# A global layer, and two that see four tokens to each side.
MODERNBERT_CONFIG: Mapping[str, Any] = {
    "architectures": ["ModernBertForSequenceClassification"],
    "model_type": "modernbert",
    "hidden_size": E,
    "intermediate_size": FFN,
    "num_hidden_layers": 3,
    "num_attention_heads": HEADS,
    "hidden_activation": "gelu",
    "max_position_embeddings": POSITIONS,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "global_attn_every_n_layers": 3,
    "local_attention": 8,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "classifier_pooling": "cls",
    "classifier_activation": "gelu",
    "pad_token_id": 0,
    "vocab_size": len(WORDPIECES),
}
# As v3: buckets over six tokens, keys and queries of distances from the projections of the layer.
DEBERTA_CONFIG: Mapping[str, Any] = {
    "architectures": ["DebertaV2ForSequenceClassification"],
    "model_type": "deberta-v2",
    "hidden_size": E,
    "intermediate_size": FFN,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 0,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 12,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "pooler_hidden_act": "gelu",
    "pad_token_id": 0,
    "vocab_size": len(WORDPIECES),
}
# As v2-xlarge: a convolution beside the first layer.
CONVOLVED = {"conv_kernel_size": 3, "conv_act": "gelu", "attention_head_size": E // HEADS}
# As the first v2 models were configured: own projections, no buckets, every embedding.
UNSHARED = {
    "share_att_key": False,
    "position_buckets": -1,
    "norm_rel_ebd": "none",
    "max_relative_positions": 20,
    "position_biased_input": True,
    "type_vocab_size": 2,
    "embedding_size": 16,
}
BIASED = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}


def modernbert(config: Mapping[str, Any], seed: int) -> Draw:
    """Draw ModernBertModel."""
    draw, size, wide = Draw(seed), config["hidden_size"], config["intermediate_size"]
    norm_bias = config["norm_bias"]
    draw.put("model.embeddings.tok_embeddings.weight", config["vocab_size"], size, scale=0.5)
    draw.part("model.embeddings.norm", size, bias=norm_bias)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        if layer:
            draw.part(f"{at}attn_norm", size, bias=norm_bias)
        draw.part(f"{at}attn.Wqkv", 3 * size, size, bias=config["attention_bias"])
        draw.part(f"{at}attn.Wo", size, size, bias=config["attention_bias"])
        draw.part(f"{at}mlp_norm", size, bias=norm_bias)
        draw.part(f"{at}mlp.Wi", 2 * wide, size, bias=config["mlp_bias"])
        draw.part(f"{at}mlp.Wo", size, wide, bias=config["mlp_bias"])
    draw.part("model.final_norm", size, bias=norm_bias)
    return draw


def deberta(config: Mapping[str, Any], seed: int) -> Draw:
    """Draw DebertaV2Model, with the parts that its config asks for."""
    draw, size, wide = Draw(seed), config["hidden_size"], config["intermediate_size"]
    _deberta_embeddings(draw, config)
    spans = config.get("max_relative_positions", -1)
    spans = spans if spans > 0 else config["max_position_embeddings"]
    spans = max(config.get("position_buckets", -1), 0) or spans
    at = "deberta.encoder."
    if config["relative_attention"]:
        draw.put(f"{at}rel_embeddings.weight", 2 * spans, size, scale=0.7)
    if config.get("norm_rel_ebd", "none") == "layer_norm":
        draw.norm(f"{at}LayerNorm", size)
    if kernel := config.get("conv_kernel_size", 0):
        groups = config.get("conv_groups", 1)
        draw.put(f"{at}conv.conv.weight", size, size // groups, kernel, scale=0.15)
        draw.put(f"{at}conv.conv.bias", size, scale=0.1)
        draw.norm(f"{at}conv.LayerNorm", size)
    own = config["relative_attention"] and not config.get("share_att_key", False)
    kinds = {"c2p": "pos_key_proj", "p2c": "pos_query_proj"}
    names = ["query_proj", "key_proj", "value_proj"]
    names += [kinds[kind] for kind in kinds if own and kind in config["pos_att_type"]]
    for layer in range(config["num_hidden_layers"]):
        at = f"deberta.encoder.layer.{layer}."
        for name in names:
            draw.linear(f"{at}attention.self.{name}", size, size)
        draw.linear(f"{at}attention.output.dense", size, size)
        draw.norm(f"{at}attention.output.LayerNorm", size)
        draw.linear(f"{at}intermediate.dense", wide, size)
        draw.linear(f"{at}output.dense", size, wide)
        draw.norm(f"{at}output.LayerNorm", size)
    return draw


def _deberta_embeddings(draw: Draw, config: Mapping[str, Any]) -> None:
    at, size = "deberta.embeddings.", config["hidden_size"]
    narrow = config.get("embedding_size", size)
    draw.put(f"{at}word_embeddings.weight", config["vocab_size"], narrow, scale=0.5)
    if config["position_biased_input"]:
        rows = config["max_position_embeddings"]
        draw.put(f"{at}position_embeddings.weight", rows, narrow, scale=0.5)
    if types := config["type_vocab_size"]:
        draw.put(f"{at}token_type_embeddings.weight", types, narrow, scale=0.5)
    if narrow != size:
        draw.part(f"{at}embed_proj", size, narrow, bias=False)
    draw.norm(f"{at}LayerNorm", size)


def _write_tokenizer(folder: Path, tokenizer: str) -> None:
    """Write tokenizer.json; these families have no vocabulary file that is read without it."""
    if tokenizer == "json":
        vocabulary = {token: index for index, token in enumerate(WORDPIECES)}
        wordpiece_tokenizer(vocabulary).save(str(folder / "tokenizer.json"))


_SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": POSITIONS,
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "model_input_names": ["input_ids", "attention_mask"],
}
_TYPED = {**_SETTINGS, "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}

write_modernbert = tiny._writer(MODERNBERT_CONFIG, modernbert, _write_tokenizer, _SETTINGS)
write_deberta = tiny._writer(DEBERTA_CONFIG, deberta, _write_tokenizer, _TYPED)
WRITERS = {"modernbert": write_modernbert, "deberta-v2": write_deberta}
# Name of the golden → family, and the fields of config.json that differ.
GOLDENS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tiny-modernbert": ("modernbert", {}),
    "tiny-modernbert-mean": ("modernbert", {**BIASED, "classifier_pooling": "mean"}),
    "tiny-deberta": ("deberta-v2", {}),
    "tiny-deberta-unshared": ("deberta-v2", UNSHARED),
    "tiny-deberta-convolved": ("deberta-v2", CONVOLVED),
}
