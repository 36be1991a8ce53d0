"""Write tests/unit/runtime/generate/tiny-decoder: a random decoder of two layers, frozen.

    PYTHONPATH=. python tests/unit/runtime/generate/tiny_decoder.py

Its tokens are the 256 bytes and four special ones, so that any text is a prompt.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import draft_at
from lmonnx.bundle.manifest import (
    CacheSpec,
    Generation,
    GraphSpec,
    Manifest,
    Precision,
    Source,
    Task,
    TensorSpec,
    TextSpec,
    TokenizerSpec,
)
from tests.tiny_text import byte_symbols, byte_tokenizer

FOLDER = Path(__file__).parent / "tiny-decoder"
LAYERS, HEADS, KV_HEADS, HEAD_SIZE, CONTEXT = 2, 2, 1, 16, 160  # H, K, D, T
WIDTH = HEADS * HEAD_SIZE  # E
SPECIALS = ("<unk>", "<s>", "</s>", "<|turn|>")
VOCABULARY = len(SPECIALS) + 256  # V
BOS, EOS = 1, 2
TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{{ message['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tokenizer() -> dict[str, Any]:
    """Return tokenizer.json: one token a byte, `<s>` in front."""
    start = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = [start, {"Sequence": {"id": "A", "type_id": 0}}]
    frame = {
        "single": text,
        "pair": [*text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
    }
    return byte_tokenizer([*SPECIALS, *byte_symbols()], SPECIALS, frame)


def weights(seed: int = 5) -> dict[str, np.ndarray]:
    """Return every constant of the graph."""
    dice = np.random.default_rng(seed)
    angles = np.arange(CONTEXT)[:, None] / 100.0 ** (np.arange(HEAD_SIZE // 2) * 2 / HEAD_SIZE)
    packed = (HEADS + 2 * KV_HEADS) * HEAD_SIZE
    found = {
        "embedding": dice.normal(size=(VOCABULARY, WIDTH)),
        "head": dice.normal(size=(WIDTH, VOCABULARY)) * 0.6,
        "cos": np.cos(angles),
        "sin": np.sin(angles),
        "norm": np.ones(WIDTH),
    }
    for layer in range(LAYERS):
        found[f"qkv.{layer}"] = dice.normal(size=(WIDTH, packed)) / 3
        found[f"out.{layer}"] = dice.normal(size=(WIDTH, WIDTH)) / 3
    return {name: array.astype(np.float32) for name, array in found.items()}


def cache_names(kind: str) -> list[str]:
    """Return the names of a graph's cache inputs or outputs: key and value of every layer."""
    return [f"{kind}.{i}.{part}" for i in range(LAYERS) for part in ("key", "value")]


def model() -> Any:
    """Return the graph of docs/decisions/0011-decoders.md."""
    from onnx import TensorProto, helper, numpy_helper

    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [node("Gather", ["embedding", "input_ids"], ["h0"])]
    for i in range(LAYERS):
        past = [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
        nodes += [
            node("RMSNormalization", [f"h{i}", "norm"], [f"n{i}"], axis=-1),
            node("MatMul", [f"n{i}", f"qkv.{i}"], [f"p{i}"]),
            node(
                "GroupQueryAttention",
                [f"p{i}", "", "", *past, "seqlens_k", "total_sequence_length", "cos", "sin"],
                [f"a{i}", f"present.{i}.key", f"present.{i}.value"],
                domain="com.microsoft",
                num_heads=HEADS,
                kv_num_heads=KV_HEADS,
                do_rotary=1,
            ),
            node("MatMul", [f"a{i}", f"out.{i}"], [f"o{i}"]),
            node("Add", [f"h{i}", f"o{i}"], [f"h{i + 1}"]),
        ]
    nodes += [
        node("Shape", ["input_ids"], ["length"], start=1, end=2),
        node("Unsqueeze", ["logits_to_keep", "zero"], ["kept"]),
        node("Sub", ["length", "kept"], ["first"]),
        node("Slice", [f"h{LAYERS}", "first", "length", "one"], ["last"]),
        node("RMSNormalization", ["last", "norm"], ["normed"], axis=-1),
        node("MatMul", ["normed", "head"], ["logits"]),
    ]
    cache: list[Any] = ["B", KV_HEADS, "T", HEAD_SIZE]
    inputs = [
        info("input_ids", TensorProto.INT64, ["B", "S"]),
        info("seqlens_k", TensorProto.INT32, ["B"]),
        info("total_sequence_length", TensorProto.INT32, []),
        info("logits_to_keep", TensorProto.INT64, []),
        *(info(name, TensorProto.FLOAT, cache) for name in cache_names("past_key_values")),
    ]
    outputs = [
        info("logits", TensorProto.FLOAT, ["B", "kept", VOCABULARY]),
        *(info(name, TensorProto.FLOAT, cache) for name in cache_names("present")),
    ]
    constants = {**weights(), "zero": np.array([0]), "one": np.array([1])}
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def spec(proto: Any) -> GraphSpec:
    """Return the manifest's row of the graph."""
    names = {1: "float32", 6: "int32", 7: "int64"}

    def tensor(value: Any) -> TensorSpec:
        kind = value.type.tensor_type
        shape = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
        return TensorSpec(value.name, names[kind.elem_type], shape)

    return GraphSpec(
        "onnx/model.onnx",
        23,
        tuple(map(tensor, proto.graph.input)),
        tuple(map(tensor, proto.graph.output)),
        {"GroupQueryAttention": LAYERS},
        optimized=True,
    )


def write(target: Path) -> Bundle:
    """Write the bundle."""
    proto = model()
    graph = spec(proto)
    with draft_at(target) as draft:
        draft.file(graph.file).write_bytes(proto.SerializeToString(deterministic=True))
        draft.file("tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
        draft.file("chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        draft.seal(
            Manifest(
                Task.TEXT_GENERATION,
                Precision.FLOAT32,
                Source("tiny-decoder", "0", "llama", "apache-2.0"),
                {"model": graph},
                TextSpec(TokenizerSpec("tokenizer.json", EOS), CONTEXT),
                generation=Generation(
                    CONTEXT,
                    VOCABULARY,
                    CacheSpec(LAYERS, KV_HEADS, HEAD_SIZE),
                    (EOS,),
                    BOS,
                    "chat_template.jinja",
                ),
            )
        )
    return Bundle.open(target)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    write(FOLDER)
