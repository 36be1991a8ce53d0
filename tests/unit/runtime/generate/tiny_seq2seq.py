"""Write tests/unit/runtime/generate/tiny-seq2seq: a random encoder-decoder, frozen.

    PYTHONPATH=. python tests/unit/runtime/generate/tiny_seq2seq.py

M2M100 of one and two layers; its tokens are the 256 bytes, four special ones and three languages.
The bundle names no language and no prefix: `variant` makes copies that do.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import MANIFEST, Manifest, Task
from tests.tiny_text import byte_symbols, byte_tokenizer

FOLDER = Path(__file__).parent / "tiny-seq2seq"
WIDTH, HEADS, FFN, POSITIONS = 16, 2, 32, 96
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
LANGUAGES = ("__de__", "__en__", "__zh__")
START = EOS = 2
FIRST_LANGUAGE = len(SPECIALS) + 256
VOCABULARY = FIRST_LANGUAGE + len(LANGUAGES)  # V
CONFIG = {
    "architectures": ["M2M100ForConditionalGeneration"],
    "model_type": "m2m_100",
    "d_model": WIDTH,
    "vocab_size": VOCABULARY,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": FFN,
    "decoder_ffn_dim": FFN,
    "max_position_embeddings": POSITIONS,
    "activation_function": "relu",
    "scale_embedding": True,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": EOS,
    "decoder_start_token_id": START,
}
GENERATION = {
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": EOS,
    "decoder_start_token_id": START,
    "max_length": 25,
    "num_beams": 2,
}


def tokenizer() -> dict[str, Any]:
    """Return tokenizer.json: one token a byte, `</s>` behind."""
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    text = [{"Sequence": {"id": "A", "type_id": 0}}, end]
    frame = {
        "single": text,
        "pair": [*text[:1], {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [EOS], "tokens": ["</s>"]}},
    }
    words = [*SPECIALS, *byte_symbols(), *LANGUAGES]
    return byte_tokenizer(words, (*SPECIALS, *LANGUAGES), frame)


def weights(seed: int = 9) -> dict[str, np.ndarray]:
    """Return the tensors by torch's names."""
    dice = np.random.default_rng(seed)
    found = {
        "model.shared.weight": dice.normal(size=(VOCABULARY, WIDTH)) * 0.6,
        "lm_head.weight": dice.normal(size=(VOCABULARY, WIDTH)) * 0.8,
    }
    # Letters are likelier than other bytes, so that answers are text; some end by themselves.
    found["lm_head.weight"] *= np.where(_is_likely(), 1.0, 0.1)[:, None]
    found["lm_head.weight"][EOS] *= 2.5

    def linear(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = dice.normal(size=(rows, columns)) * 1.5 / columns**0.5
        found[f"{name}.bias"] = dice.normal(size=rows) * 0.1

    def norm(name: str) -> None:
        found[f"{name}.weight"] = 1 + dice.normal(size=WIDTH) * 0.1
        found[f"{name}.bias"] = dice.normal(size=WIDTH) * 0.1

    for side, layers in (("encoder", 1), ("decoder", 2)):
        for layer in range(layers):
            at = f"model.{side}.layers.{layer}."
            attentions = ["self_attn"] if side == "encoder" else ["self_attn", "encoder_attn"]
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    linear(f"{at}{attention}.{part}", WIDTH, WIDTH)
                norm(f"{at}{attention}_layer_norm")
            linear(f"{at}fc1", FFN, WIDTH)
            linear(f"{at}fc2", WIDTH, FFN)
            norm(f"{at}final_layer_norm")
        norm(f"model.{side}.layer_norm")
    return {name: array.astype(np.float32) for name, array in found.items()}


def _is_likely() -> np.ndarray:
    symbols = byte_symbols()
    likely = np.zeros(VOCABULARY, bool)
    for i, symbol in enumerate(symbols, len(SPECIALS)):
        likely[i] = symbol in "abcdefghijklmnopqrstuvwxyz"
    likely[len(SPECIALS) + 32] = likely[EOS] = True
    return likely


def write(target: Path) -> Bundle:
    """Write the bundle."""
    from safetensors.numpy import save_file

    from lmonnx.compiler.checkpoint import open_checkpoint
    from lmonnx.compiler.export import export

    with TemporaryDirectory() as folder:
        place = Path(folder) / "tiny-seq2seq"
        place.mkdir()
        save_file(weights(), place / "model.safetensors")
        files = {
            "config.json": CONFIG,
            "generation_config.json": GENERATION,
            "tokenizer.json": tokenizer(),
            "tokenizer_config.json": {"model_max_length": POSITIONS, "pad_token": "<pad>"},
        }
        for name, content in files.items():
            (place / name).write_text(json.dumps(content), encoding="utf-8")
        return export(open_checkpoint(str(place)), target, verify=False)


def variant(target: Path, *, task: Task | None = None, **changes: Any) -> Path:
    """Copy the bundle with other fields of `generation` or, by their names, of `seq2seq`."""
    shutil.copytree(FOLDER, target)
    path = target / MANIFEST
    manifest = Manifest.from_json(path.read_text(encoding="utf-8"), "tiny-seq2seq")
    generation = manifest.generation
    inner = {k: v for k, v in changes.items() if hasattr(generation.seq2seq, k)}
    outer = {k: v for k, v in changes.items() if k not in inner}
    generation = replace(generation, seq2seq=replace(generation.seq2seq, **inner), **outer)
    changed = replace(manifest, generation=generation, task=task or manifest.task)
    path.write_text(changed.to_json(), encoding="utf-8")
    return target


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    write(FOLDER)
