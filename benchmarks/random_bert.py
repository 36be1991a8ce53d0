"""Write a BERT-base classifier of random weights as a checkpoint, and print its float32 bytes.

`python benchmarks/random_bert.py OUT [--dtype float32|float16] [--file safetensors|bin]`: the first
is written by numpy alone, a .bin by torch.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HIDDEN, LAYERS, HEADS, INTERMEDIATE, VOCABULARY, POSITIONS = 768, 12, 12, 3072, 30522, 512
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SCALE = 0.02  # the standard deviation that BERT starts from

CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INTERMEDIATE,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": POSITIONS,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "id2label": {"0": "NEGATIVE", "1": "POSITIVE"},
    "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "model_max_length": POSITIONS,
    **{f"{name[1:-1].lower()}_token": name for name in SPECIAL},
}


def shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every weight's name in transformers' state dict, and its shape."""
    yield "bert.embeddings.word_embeddings.weight", (VOCABULARY, HIDDEN)
    yield "bert.embeddings.position_embeddings.weight", (POSITIONS, HIDDEN)
    yield "bert.embeddings.token_type_embeddings.weight", (2, HIDDEN)
    yield from _vectors("bert.embeddings.LayerNorm", HIDDEN)
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            yield from _linear(f"{at}.attention.self.{name}", HIDDEN, HIDDEN)
        yield from _linear(f"{at}.attention.output.dense", HIDDEN, HIDDEN)
        yield from _vectors(f"{at}.attention.output.LayerNorm", HIDDEN)
        yield from _linear(f"{at}.intermediate.dense", INTERMEDIATE, HIDDEN)
        yield from _linear(f"{at}.output.dense", HIDDEN, INTERMEDIATE)
        yield from _vectors(f"{at}.output.LayerNorm", HIDDEN)
    yield from _linear("bert.pooler.dense", HIDDEN, HIDDEN)
    yield from _linear("classifier", 2, HIDDEN)


def float32_bytes() -> int:
    """Return the size of all weights in float32."""
    return 4 * sum(int(np.prod(shape)) for _, shape in shapes())


def write_checkpoint(target: Path, dtype: str, file: str, *, seed: int = 0) -> None:
    """Write config, vocabulary and weights to a folder."""
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    weights = {name: _weight(rng, name, shape).astype(dtype) for name, shape in shapes()}
    _WRITERS[file](target, weights)
    words = [*SPECIAL, *(f"w{index}" for index in range(VOCABULARY - len(SPECIAL)))]
    (target / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    for name, value in (("config", CONFIG), ("tokenizer_config", TOKENIZER_CONFIG)):
        (target / f"{name}.json").write_text(json.dumps(value, indent=2), encoding="utf-8")


def _linear(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _vectors(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _weight(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    around = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    return (around + SCALE * rng.standard_normal(shape)).astype(np.float32)


def _write_safetensors(target: Path, weights: Mapping[str, NDArray[np.floating]]) -> None:
    header, start = {}, 0
    for name, array in weights.items():
        kind = {"float32": "F32", "float16": "F16"}[str(array.dtype)]
        end = start + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (target / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for array in weights.values():
            out.write(array.tobytes())


def _write_bin(target: Path, weights: Mapping[str, NDArray[np.floating]]) -> None:
    import torch

    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    torch.save(state, target / "pytorch_model.bin")


_WRITERS = {"safetensors": _write_safetensors, "bin": _write_bin}


def main() -> None:
    """Write the checkpoint that the command line describes."""
    parser = argparse.ArgumentParser(description="Write a random BERT-base classifier.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--file", choices=tuple(_WRITERS), default="safetensors")
    arguments = parser.parse_args()
    write_checkpoint(arguments.out, arguments.dtype, arguments.file)
    print(float32_bytes())


if __name__ == "__main__":
    main()
