"""Write an encoder-decoder of random weights as a checkpoint, and print its float32 bytes.

`python benchmarks/random_seq2seq.py marian|t5 OUT [--dtype float32|float16] [--seed 0]`: a Marian
of opus-mt's size (decoder start, padding and tied head as there), or a T5 of t5-small's. Written by
numpy alone. Their words are w0, w1, …: each is one token, so a text has as many tokens as words,
and its end.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, LAYERS, HEADS, INNER = 512, 6, 8, 2048
MARIAN_WORDS, T5_WORDS, POSITIONS, BUCKETS = 58101, 32128, 512, 32
SCALE = 0.02  # the standard deviation that Marian starts from

Shapes = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Family:
    """A family's configuration, how it generates, its weights and its tokenizer."""

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    write_tokenizer: Callable[[Path], None]


def _linear(name: str, out: int, into: int) -> Shapes:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str) -> Shapes:
    yield f"{name}.weight", (WIDTH,)
    yield f"{name}.bias", (WIDTH,)


def _marian() -> Shapes:
    """Yield the names and shapes of a Marian's state dict; its head is the embedding."""
    yield "model.shared.weight", (MARIAN_WORDS, WIDTH)
    yield "final_logits_bias", (1, MARIAN_WORDS)
    for half, attentions in (
        ("encoder", ("self_attn",)),
        ("decoder", ("self_attn", "encoder_attn")),
    ):
        for layer in range(LAYERS):
            at = f"model.{half}.layers.{layer}"
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield from _linear(f"{at}.{attention}.{part}", WIDTH, WIDTH)
                yield from _norm(f"{at}.{attention}_layer_norm")
            yield from _linear(f"{at}.fc1", INNER, WIDTH)
            yield from _linear(f"{at}.fc2", WIDTH, INNER)
            yield from _norm(f"{at}.final_layer_norm")


def _t5() -> Shapes:
    """Yield the names and shapes of a T5's state dict; its head is the embedding."""
    yield "shared.weight", (T5_WORDS, WIDTH)
    for half, attentions in (
        ("encoder", ("SelfAttention",)),
        ("decoder", ("SelfAttention", "EncDecAttention")),
    ):
        for layer in range(LAYERS):
            at = f"{half}.block.{layer}.layer"
            for place, attention in enumerate(attentions):
                for part in "qkvo":
                    yield f"{at}.{place}.{attention}.{part}.weight", (WIDTH, WIDTH)
                yield f"{at}.{place}.layer_norm.weight", (WIDTH,)
            place = len(attentions)
            yield f"{at}.{place}.DenseReluDense.wi.weight", (INNER, WIDTH)
            yield f"{at}.{place}.DenseReluDense.wo.weight", (WIDTH, INNER)
            yield f"{at}.{place}.layer_norm.weight", (WIDTH,)
        bias = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield bias, (BUCKETS, HEADS)
        yield f"{half}.final_layer_norm.weight", (WIDTH,)


def word(index: int) -> str:
    """Return the text that is one token."""
    return f"w{index}"


def _marian_tokenizer(target: Path) -> None:
    """Write vocab.json, whose last entry pads, and two SentencePiece models of the same words."""
    pieces = [f"▁{word(index)}" for index in range(MARIAN_WORDS - 3)]
    names = ["</s>", "<unk>", *pieces, "<pad>"]
    ids = {name: index for index, name in enumerate(names)}
    _write_json(target / "vocab.json", ids)
    model = _sentencepiece([("<unk>", 2), ("<s>", 3), ("</s>", 3), *((p, 1) for p in pieces)])
    for side in ("source", "target"):
        (target / f"{side}.spm").write_bytes(model)
    names_of = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = {
        **names_of,
        "tokenizer_class": "MarianTokenizer",
        "source_lang": "de",
        "target_lang": "en",
        "separate_vocabs": False,
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(target / "tokenizer_config.json", config)


def _t5_tokenizer(target: Path) -> None:
    """Write spiece.model; the last 128 rows of the embedding have no word, as in t5-small 28."""
    pieces = [f"▁{word(index)}" for index in range(T5_WORDS - 128 - 3)]
    special = [("<pad>", 3), ("</s>", 3), ("<unk>", 2)]
    (target / "spiece.model").write_bytes(_sentencepiece([*special, *((p, 1) for p in pieces)]))
    config = {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_ids": 100,
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(target / "tokenizer_config.json", config)


def _sentencepiece(pieces: Sequence[tuple[str, int]]) -> bytes:
    """Return a unigram model of pieces and their types: 1 normal, 2 unknown, 3 control.

    Source:
        sentencepiece_model.proto: ModelProto.pieces is field 1, trainer_spec 2 (model_type 3,
        unk_id 40, bos_id 41, eos_id 42, pad_id 43), normalizer_spec 3.
    """
    at = {name: index for index, (name, _) in enumerate(pieces)}
    entries = (
        _field(1, name.encode()) + b"\x15" + struct.pack("<f", -1.0) + b"\x18" + bytes([kind])
        for name, kind in pieces
    )
    special = {40: "<unk>", 41: "<s>", 42: "</s>", 43: "<pad>"}
    ids = (_number(field, at.get(name, -1)) for field, name in special.items())
    trainer = _number(3, 1) + b"".join(ids)
    normalizer = _field(1, b"identity") + _number(3, 1) + _number(4, 1) + _number(5, 1)
    parts = [_field(1, entry) for entry in entries]
    return b"".join([*parts, _field(2, trainer), _field(3, normalizer)])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value % 2**64)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


_MARIAN_IDS = {
    "decoder_start_token_id": MARIAN_WORDS - 1,
    "pad_token_id": MARIAN_WORDS - 1,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
}
_T5_IDS = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
_BOTH = {"is_encoder_decoder": True, "use_cache": True, "torch_dtype": "float32"}
FAMILIES = {
    "marian": Family(
        {
            **_BOTH,
            **_MARIAN_IDS,
            "architectures": ["MarianMTModel"],
            "model_type": "marian",
            "activation_function": "swish",
            "d_model": WIDTH,
            **{f"{half}_layers": LAYERS for half in ("encoder", "decoder")},
            **{f"{half}_attention_heads": HEADS for half in ("encoder", "decoder")},
            **{f"{half}_ffn_dim": INNER for half in ("encoder", "decoder")},
            "vocab_size": MARIAN_WORDS,
            "decoder_vocab_size": MARIAN_WORDS,
            "max_position_embeddings": POSITIONS,
            "scale_embedding": True,
            "static_position_embeddings": True,
            "share_encoder_decoder_embeddings": True,
            "tie_word_embeddings": True,
        },
        {**_MARIAN_IDS, "bad_words_ids": [[MARIAN_WORDS - 1]], "max_length": POSITIONS},
        dict(_marian()),
        _marian_tokenizer,
    ),
    "t5": Family(
        {
            **_BOTH,
            **_T5_IDS,
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "feed_forward_proj": "relu",
            "d_model": WIDTH,
            "d_kv": WIDTH // HEADS,
            "d_ff": INNER,
            "num_layers": LAYERS,
            "num_decoder_layers": LAYERS,
            "num_heads": HEADS,
            "relative_attention_num_buckets": BUCKETS,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "vocab_size": T5_WORDS,
            "n_positions": POSITIONS,
            "tie_word_embeddings": True,
        },
        _T5_IDS,
        dict(_t5()),
        _t5_tokenizer,
    ),
}


def float32_bytes(family: str) -> int:
    """Return the size of a family's weights in float32."""
    return 4 * sum(int(np.prod(shape)) for shape in FAMILIES[family].shapes.values())


def write_checkpoint(family: str, target: Path, *, dtype: str = "float32", seed: int = 0) -> None:
    """Write configuration, weights and tokenizer to a folder."""
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    made = FAMILIES[family]
    weights = {name: _weight(rng, name, shape, dtype) for name, shape in made.shapes.items()}
    _write_safetensors(target / "model.safetensors", weights)
    for name, value in (("config", made.config), ("generation_config", made.generation)):
        _write_json(target / f"{name}.json", value)
    made.write_tokenizer(target)


def _weight(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str
) -> NDArray[Any]:
    around = 1.0 if name.endswith("layer_norm.weight") else 0.0
    return (around + SCALE * rng.standard_normal(shape, np.float32)).astype(dtype)


def _write_safetensors(target: Path, weights: Mapping[str, NDArray[Any]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, array in weights.items():
        kind = {"float32": "F32", "float16": "F16"}[str(array.dtype)]
        end = start + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for array in weights.values():
            out.write(array.tobytes())


def main() -> None:
    """Write the checkpoint that the command line describes."""
    parser = argparse.ArgumentParser(description="Write a random encoder-decoder.")
    parser.add_argument("family", choices=tuple(FAMILIES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_checkpoint(arguments.family, arguments.out, dtype=arguments.dtype, seed=arguments.seed)
    print(float32_bytes(arguments.family))


if __name__ == "__main__":
    main()
