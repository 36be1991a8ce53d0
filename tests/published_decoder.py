"""A decoder's ONNX graph as others publish it: of one layer, with a past that it appends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import tiny_text
from tests.tiny_text import byte_pieces, write_json

HEADS, HEAD, VOCABULARY, CONTEXT = 2, 16, len(byte_pieces()), 64
WIDTH = HEADS * HEAD
PAST = ["batch_size", HEADS, "past_sequence_length", HEAD]
TOTAL = ["batch_size", HEADS, "past_sequence_length + sequence_length", HEAD]
CONFIG = {
    "architectures": ["OtherForCausalLM"],
    "model_type": "other",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": CONTEXT,
    "eos_token_id": 2,
}
Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]


def _projected(part: str, *, split: bool) -> list[Node]:
    made = [("MatMul", ["x", f"w{part}"], [f"{part}_flat"], {})]
    if not split:
        return made
    return [
        *made,
        ("Reshape", [f"{part}_flat", "by_head"], [f"{part}_rows"], {}),
        ("Transpose", [f"{part}_rows"], [f"{part}_new"], {"perm": [0, 2, 1, 3]}),
    ]


def _embedded() -> list[Node]:
    return [
        ("Gather", ["table", "input_ids"], ["words"], {}),
        ("Gather", ["places", "position_ids"], ["placed"], {}),
        ("Add", ["words", "placed"], ["x"], {}),
    ]


def _head() -> list[Node]:
    return [
        ("MatMul", ["context", "wo"], ["out"], {}),
        ("Add", ["x", "out"], ["y"], {}),
        ("MatMul", ["y", "turned"], ["scores_of_words"], {}),
        ("Mul", ["scores_of_words", "factor"], ["logits"], {}),
    ]


def plain_nodes() -> list[Node]:
    """Return attention by its parts: mask, causal order, softmax."""
    return [
        *_embedded(),
        *(node for part in "qkv" for node in _projected(part, split=True)),
        ("Concat", ["past_key_values.0.key", "k_new"], ["present.0.key"], {"axis": 2}),
        ("Concat", ["past_key_values.0.value", "v_new"], ["present.0.value"], {"axis": 2}),
        ("Transpose", ["present.0.key"], ["keys"], {"perm": [0, 1, 3, 2]}),
        ("MatMul", ["q_new", "keys"], ["raw"], {}),
        ("Shape", ["attention_mask"], ["total"], {"start": 1, "end": 2}),
        ("Shape", ["input_ids"], ["length"], {"start": 1, "end": 2}),
        ("Sub", ["total", "length"], ["past"], {}),
        ("Squeeze", ["total"], ["stop"], {}),
        ("Range", ["zero", "stop", "one"], ["columns"], {}),
        ("Squeeze", ["past"], ["start"], {}),
        ("Range", ["start", "stop", "one"], ["own"], {}),
        ("Unsqueeze", ["own", "last"], ["rows"], {}),
        ("LessOrEqual", ["columns", "rows"], ["before"], {}),
        ("Cast", ["attention_mask"], ["there"], {"to": TensorProto.BOOL}),
        ("Unsqueeze", ["there", "middle"], ["there_of_all"], {}),
        ("And", ["before", "there_of_all"], ["seen"], {}),
        ("Where", ["seen", "raw", "least"], ["scores"], {}),
        ("Softmax", ["scores"], ["weights"], {"axis": -1}),
        ("MatMul", ["weights", "present.0.value"], ["by_heads"], {}),
        ("Transpose", ["by_heads"], ["by_tokens"], {"perm": [0, 2, 1, 3]}),
        ("Reshape", ["by_tokens", "flat"], ["context"], {}),
        *_head(),
    ]


def fused_nodes() -> list[Node]:
    """Return the same by GroupQueryAttention, which takes the rows' lengths from the mask."""
    attention = {"num_heads": HEADS, "kv_num_heads": HEADS, "scale": 1.0}
    past = ["past_key_values.0.key", "past_key_values.0.value"]
    return [
        *_embedded(),
        *(node for part in "qkv" for node in _projected(part, split=False)),
        ("ReduceSum", ["attention_mask", "last"], ["counted"], {}),
        ("Sub", ["counted", "one"], ["ends"], {}),
        ("Cast", ["ends"], ["lengths"], {"to": TensorProto.INT32}),
        ("Shape", ["attention_mask"], ["total"], {"start": 1, "end": 2}),
        ("Squeeze", ["total"], ["longest"], {}),
        ("Cast", ["longest"], ["stop"], {"to": TensorProto.INT32}),
        (
            "GroupQueryAttention",
            ["q_flat", "k_flat", "v_flat", *past, "lengths", "stop"],
            ["context", "present.0.key", "present.0.value"],
            attention,
        ),
        *_head(),
    ]


def weights(seed: int = 3) -> list[TensorProto]:
    """Return the constants; the head is the table, turned."""
    dice = np.random.default_rng(seed)
    table = dice.normal(size=(VOCABULARY, WIDTH))
    floats = {
        "table": table,
        "turned": table.T,
        "places": dice.normal(size=(CONTEXT, WIDTH)),
        "factor": np.array(0.5),
        "least": np.array(-1e9),
    }
    floats |= {f"w{part}": dice.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5 for part in "qkvo"}
    ints = {"by_head": [0, 0, HEADS, HEAD], "flat": [0, 0, WIDTH], "middle": [1, 2], "last": [1]}
    arrays = {name: array.astype(np.float32) for name, array in floats.items()}
    arrays |= {name: np.array(value) for name, value in {**ints, "zero": 0, "one": 1}.items()}
    return [
        numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
    ]


def make_model(nodes: Sequence[Node]) -> onnx.ModelProto:
    """Return a graph with the usual names of inputs and outputs."""
    made = [
        helper.make_node(
            op, inputs, outputs, domain="com.microsoft" if op.startswith("Group") else "", **more
        )
        for op, inputs, outputs, more in nodes
    ]
    names = ("0.key", "0.value")
    tensor = helper.make_tensor_value_info
    tokens, total = ["batch_size", "sequence_length"], ["batch_size", "total_length"]
    inputs = [
        tensor("input_ids", TensorProto.INT64, tokens),
        tensor("attention_mask", TensorProto.INT64, total),
        tensor("position_ids", TensorProto.INT64, tokens),
        *(tensor(f"past_key_values.{name}", TensorProto.FLOAT, PAST) for name in names),
    ]
    outputs = [
        tensor("logits", TensorProto.FLOAT, [*tokens, VOCABULARY]),
        *(tensor(f"present.{name}", TensorProto.FLOAT, TOTAL) for name in names),
    ]
    graph = helper.make_graph(made, "published", inputs, outputs, weights())
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def make_merged() -> onnx.ModelProto:
    """Return a graph of two branches, as optimum merged them; that without a past gives zeros."""
    model = make_model(plain_nodes())
    graph, outputs = model.graph, list(model.graph.output)
    inner = {value.name: f"then_{value.name}" for value in outputs}
    kept = list(graph.node)
    for node in kept:
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    then = helper.make_graph(kept, "then", [], [_named(v, inner[v.name]) for v in outputs])
    zeros = [
        helper.make_node("Mul", [source, "nothing"], [f"else_{value.name}"])
        for value, source in zip(outputs, ["places", "table", "table"], strict=True)
    ]
    other = helper.make_graph(zeros, "else", [], [_named(v, f"else_{v.name}") for v in outputs])
    choice = helper.make_node(
        "If", ["use_cache_branch"], [value.name for value in outputs],
        then_branch=then, else_branch=other,
    )  # fmt: skip
    del graph.node[:]
    graph.node.append(choice)
    graph.input.append(helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
    return model


def _named(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, value.type.tensor_type.elem_type, None)


def write_folder(folder: Path, model: onnx.ModelProto, file: str = "onnx/model.onnx") -> Path:
    """Write a folder of a published graph: without weights, with a tokenizer."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    write_json(folder / "config.json", CONFIG)
    tiny_text.write_byte_bpe(folder, "json")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder
