"""Seeded checkpoints of a few layers, made in memory and written as Hugging Face folders.

Every weight is exact in bfloat16, so one golden answer holds for float32, float16 and bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from tests import tiny_heads, tiny_tensors, tiny_text, torch_files
from tests.tiny_tensors import Arrays, Draw
from tests.tiny_text import MPNET_PIECES, UNIGRAMS, WORDPIECES, byte_pieces, write_json

E, FFN, LAYERS, HEADS, POSITIONS = 32, 64, 2, 4, 64
NARROW = 16  # the embeddings of ELECTRA and ALBERT

BERT_CONFIG: Mapping[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": E,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "vocab_size": len(WORDPIECES),
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
}
ROBERTA_CONFIG: Mapping[str, Any] = {
    **BERT_CONFIG,
    "architectures": ["RobertaForSequenceClassification"],
    "model_type": "roberta",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": POSITIONS + 2,
    "type_vocab_size": 1,
    "vocab_size": len(byte_pieces()),
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
DISTILBERT_CONFIG: Mapping[str, Any] = {
    "architectures": ["DistilBertForSequenceClassification"],
    "model_type": "distilbert",
    "dim": E,
    "hidden_dim": FFN,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "activation": "gelu",
    "max_position_embeddings": POSITIONS,
    "vocab_size": len(WORDPIECES),
    "pad_token_id": 0,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
}
ELECTRA_CONFIG: Mapping[str, Any] = {
    **BERT_CONFIG,
    "architectures": ["ElectraForSequenceClassification"],
    "model_type": "electra",
    "embedding_size": NARROW,
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": "gelu",
    "summary_last_dropout": 0.1,
}
ALBERT_CONFIG: Mapping[str, Any] = {
    **BERT_CONFIG,
    "architectures": ["AlbertForSequenceClassification"],
    "model_type": "albert",
    "embedding_size": NARROW,
    "num_hidden_layers": 4,
    "num_hidden_groups": 2,
    "inner_group_num": 2,
    "hidden_act": "gelu_new",
    "vocab_size": len(UNIGRAMS),
    "bos_token_id": 2,
    "eos_token_id": 3,
    "classifier_dropout_prob": 0.1,
    "down_scale_factor": 1,
    "gap_size": 0,
    "net_structure_type": 0,
    "num_memory_blocks": 0,
}
MPNET_CONFIG: Mapping[str, Any] = {
    "architectures": ["MPNetForSequenceClassification"],
    "model_type": "mpnet",
    "hidden_size": E,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": POSITIONS + 2,
    "relative_attention_num_buckets": 32,
    "vocab_size": len(MPNET_PIECES),
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
BERT_SETTINGS = {"tokenizer_class": "BertTokenizer", "model_max_length": POSITIONS}
ROBERTA_SETTINGS = {"tokenizer_class": "RobertaTokenizer", "model_max_length": POSITIONS}
DISTILBERT_SETTINGS = {"tokenizer_class": "DistilBertTokenizer", "model_max_length": POSITIONS}
ELECTRA_SETTINGS = {"tokenizer_class": "ElectraTokenizer", "model_max_length": POSITIONS}
ALBERT_SETTINGS = {"tokenizer_class": "AlbertTokenizer", "model_max_length": POSITIONS}
MPNET_SETTINGS = {"tokenizer_class": "MPNetTokenizer", "model_max_length": POSITIONS}


def _cast(arrays: Arrays, dtype: str) -> Arrays:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return {name: array.astype(kind) for name, array in arrays.items()}


def write_weights(folder: Path, arrays: Arrays, form: str = "safetensors") -> None:
    """Write tensors as one file (`safetensors`, `bin`) or two (`sharded`, `sharded-bin`)."""
    stem, ending, save = (
        ("pytorch_model", "bin", lambda a, path: torch_files.write_zip(path, a))
        if form.endswith("bin")
        else ("model", "safetensors", save_file)
    )
    if not form.startswith("sharded"):
        save(arrays, folder / f"{stem}.{ending}")
        return
    names = list(arrays)
    places = {}
    for shard, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-{shard:05}-of-00002.{ending}"
        save({name: arrays[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    write_json(folder / f"{stem}.{ending}.index.json", {"metadata": {}, "weight_map": places})


def _writer(
    defaults: Mapping[str, Any],
    tensors: Callable[[Mapping[str, Any], int], Draw],
    text: Callable[[Path, str], None],
    text_settings: Mapping[str, Any],
) -> Callable[..., Path]:
    def write(
        folder: Path,
        *,
        seed: int = 0,
        dtype: str = "float32",
        form: str = "safetensors",
        tokenizer: str = "json",
        settings: Mapping[str, Any] | None = None,
        edit: Callable[[Arrays], Any] | None = None,
        task: str | None = None,
        **changes: Any,
    ) -> Path:
        """Write a checkpoint; return its folder.

        Args:
            folder: Made if it is not there.
            seed: Of the weights.
            dtype: float32, float16 or bfloat16, of the same values.
            form: See `write_weights`.
            tokenizer: "json" for tokenizer.json, "vocab" for the vocabulary alone.
            settings: What differs in tokenizer_config.json.
            edit: Called with the tensors before they are written.
            task: Whose class it is; None for sequence classification, or for what `changes` say.
            changes: Fields of config.json that differ; None leaves one out.
        """
        folder.mkdir(parents=True, exist_ok=True)
        merged = {**defaults, **changes}
        if task:
            merged["architectures"] = [tiny_heads.class_name(merged["architectures"][0], task)]
        config = {name: value for name, value in merged.items() if value is not None}
        full = {**defaults, **config}
        arrays = _cast(tiny_heads.with_head(tensors(full, seed), full), dtype)
        if edit:
            edit(arrays)
        write_json(folder / "config.json", config)
        write_json(folder / "tokenizer_config.json", {**text_settings, **(settings or {})})
        text(folder, tokenizer)
        write_weights(folder, arrays, form)
        return folder

    return write


write_bert = _writer(BERT_CONFIG, tiny_tensors.bert, tiny_text.write_wordpiece, BERT_SETTINGS)
write_roberta = _writer(
    ROBERTA_CONFIG, tiny_tensors.roberta, tiny_text.write_byte_bpe, ROBERTA_SETTINGS
)
write_distilbert = _writer(
    DISTILBERT_CONFIG, tiny_tensors.distilbert, tiny_text.write_wordpiece, DISTILBERT_SETTINGS
)
write_electra = _writer(
    ELECTRA_CONFIG, tiny_tensors.electra, tiny_text.write_wordpiece, ELECTRA_SETTINGS
)
write_albert = _writer(ALBERT_CONFIG, tiny_tensors.albert, tiny_text.write_unigram, ALBERT_SETTINGS)
write_mpnet = _writer(MPNET_CONFIG, tiny_tensors.mpnet, tiny_text.write_mpnet, MPNET_SETTINGS)
WRITERS = {
    "bert": write_bert,
    "roberta": write_roberta,
    "distilbert": write_distilbert,
    "electra": write_electra,
    "albert": write_albert,
    "mpnet": write_mpnet,
}
# Families whose vocabulary file is enough to build the tokenizer, and how many pieces are in it.
PIECES = {
    "bert": len(WORDPIECES),
    "roberta": len(byte_pieces()),
    "distilbert": len(WORDPIECES),
    "electra": len(WORDPIECES),
    "mpnet": len(MPNET_PIECES),
}
