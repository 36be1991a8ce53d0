"""Seeded two-layer checkpoints, made in memory and written as Hugging Face folders.

Every weight is exact in bfloat16, so one golden answer holds for float32, float16 and bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import RobertaProcessing, TemplateProcessing

from tests import torch_files

Arrays = dict[str, np.ndarray]
E, FFN, LAYERS, HEADS, POSITIONS = 32, 64, 2, 4, 64

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_ALNUM = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WORDS = ("film", "good", "bad", "not", "the", "##ing", "É", "é", "e", "中", "文", "😀", "ا")
WORDPIECES = tuple(
    dict.fromkeys(
        (*BERT_SPECIAL, *_ALNUM, *(f"##{c}" for c in _ALNUM), *_PUNCTUATION, *_WORDS, "##é", "A")
    )
)
MERGES = (
    ("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("in", "g"), ("Ġ", "f"), ("i", "l"),
    ("Ġf", "il"), ("Ġfil", "m"), ("o", "o"), ("g", "oo"), ("goo", "d"), ("Ġ", "good"),
)  # fmt: skip


def byte_pieces() -> dict[str, int]:
    """Return RoBERTa's vocabulary: special tokens, 256 bytes, merges."""
    pieces = (*ROBERTA_SPECIAL[:4], *sorted(pre_tokenizers.ByteLevel.alphabet()))
    merged = ("".join(merge) for merge in MERGES)
    return {piece: i for i, piece in enumerate((*pieces, *merged, ROBERTA_SPECIAL[4]))}


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
BERT_SETTINGS = {"tokenizer_class": "BertTokenizer", "model_max_length": POSITIONS}
ROBERTA_SETTINGS = {"tokenizer_class": "RobertaTokenizer", "model_max_length": POSITIONS}
DISTILBERT_SETTINGS = {"tokenizer_class": "DistilBertTokenizer", "model_max_length": POSITIONS}


class _Draw:
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


def bert_tensors(config: Mapping[str, Any], seed: int, prefix: str = "bert.") -> _Draw:
    """Draw the encoder that BERT and RoBERTa share."""
    draw, size, wide = _Draw(seed), config["hidden_size"], config["intermediate_size"]
    for name, rows in (
        ("word", config["vocab_size"]),
        ("position", config["max_position_embeddings"]),
        ("token_type", config["type_vocab_size"]),
    ):
        draw.put(f"{prefix}embeddings.{name}_embeddings.weight", rows, size, scale=0.5)
    draw.norm(f"{prefix}embeddings.LayerNorm", size)
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


def classes(config: Mapping[str, Any]) -> int:
    """Return how many logits the head of `config` has."""
    return len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)


def _bert(config: Mapping[str, Any], seed: int) -> Arrays:
    draw, size = bert_tensors(config, seed), config["hidden_size"]
    draw.linear("bert.pooler.dense", size, size)
    draw.linear("classifier", classes(config), size)
    return draw.arrays


def _roberta(config: Mapping[str, Any], seed: int) -> Arrays:
    draw, size = bert_tensors(config, seed, "roberta."), config["hidden_size"]
    draw.linear("classifier.dense", size, size)
    draw.linear("classifier.out_proj", classes(config), size)
    return draw.arrays


def _distilbert(config: Mapping[str, Any], seed: int) -> Arrays:
    draw, size, wide = _Draw(seed), config["dim"], config["hidden_dim"]
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
    draw.linear("pre_classifier", size, size)
    draw.linear("classifier", classes(config), size)
    return draw.arrays


def wordpiece_tokenizer(vocabulary: Mapping[str, int], **settings: Any) -> Tokenizer:
    """Return BertTokenizerFast's tokenizer."""
    tokenizer = Tokenizer(models.WordPiece(dict(vocabulary), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(BERT_SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def byte_bpe_tokenizer() -> Tokenizer:
    """Return RobertaTokenizerFast's tokenizer."""
    tokenizer = Tokenizer(models.BPE(byte_pieces(), list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(ROBERTA_SPECIAL[:4]))
    tokenizer.add_special_tokens([AddedToken(ROBERTA_SPECIAL[4], lstrip=True, normalized=False)])
    tokenizer.post_processor = RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False, trim_offsets=True
    )
    return tokenizer


def _write_wordpiece(folder: Path, tokenizer: str) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n", encoding="utf-8")
    if tokenizer == "json":
        vocabulary = {token: index for index, token in enumerate(WORDPIECES)}
        wordpiece_tokenizer(vocabulary).save(str(folder / "tokenizer.json"))


def _write_byte_bpe(folder: Path, tokenizer: str) -> None:
    if tokenizer == "json":
        byte_bpe_tokenizer().save(str(folder / "tokenizer.json"))
        return
    write_json(folder / "vocab.json", byte_pieces())
    lines = ("#version: 0.2", *(" ".join(merge) for merge in MERGES))
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, as UTF-8."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


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
    tensors: Callable[[Mapping[str, Any], int], Arrays],
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
            changes: Fields of config.json that differ; None leaves one out.
        """
        folder.mkdir(parents=True, exist_ok=True)
        merged = {**defaults, **changes}
        config = {name: value for name, value in merged.items() if value is not None}
        arrays = _cast(tensors({**defaults, **config}, seed), dtype)
        if edit:
            edit(arrays)
        write_json(folder / "config.json", config)
        write_json(folder / "tokenizer_config.json", {**text_settings, **(settings or {})})
        text(folder, tokenizer)
        write_weights(folder, arrays, form)
        return folder

    return write


write_bert = _writer(BERT_CONFIG, _bert, _write_wordpiece, BERT_SETTINGS)
write_roberta = _writer(ROBERTA_CONFIG, _roberta, _write_byte_bpe, ROBERTA_SETTINGS)
write_distilbert = _writer(DISTILBERT_CONFIG, _distilbert, _write_wordpiece, DISTILBERT_SETTINGS)
WRITERS = {"bert": write_bert, "roberta": write_roberta, "distilbert": write_distilbert}
