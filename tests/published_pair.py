"""An encoder-decoder's ONNX graphs as optimum publishes them: one layer each, written by hand.

Attention is of two forms: `flat` is that of exporters of before 2024, with rows and heads in one
axis, the scale in the query, no mask of its own and views around the mask of the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import tiny_text
from tests.tiny_text import byte_pieces, write_json

HEADS, HEAD, VOCABULARY, CONTEXT, FIRST = 2, 6, len(byte_pieces()), 40, 2
WIDTH = HEADS * HEAD
CONFIG = {
    "architectures": ["OtherForConditionalGeneration"],
    "model_type": "other",
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "is_encoder_decoder": True,
}
Node = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]
TURNED = {"perm": [0, 2, 1, 3]}


def _by_heads(source: str, weight: str, made: str, rows_of: str) -> list[Node]:
    """Return x·W as (rows, H, ·, D), the number of rows taken from another value."""
    return [
        ("MatMul", [source, weight], [f"{made}/flat"], {}),
        ("Shape", [rows_of], [f"{made}/sizes"], {}),
        ("Gather", [f"{made}/sizes", "first_axis"], [f"{made}/count"], {}),
        ("Concat", [f"{made}/count", "heads"], [f"{made}/shape"], {"axis": 0}),
        ("Reshape", [f"{made}/flat", f"{made}/shape"], [f"{made}/rows"], {}),
        ("Transpose", [f"{made}/rows"], [made], TURNED),
    ]


def _attend(name: str, keys: str, values: str, mask: str, *, flat: bool) -> list[Node]:
    """Return softmax(q·kᵀ/√D + mask)·v, (rows, Q, H·D), of `name`/q."""
    n, own = name, [("Mul", [f"{name}/q", "scale"], [f"{name}/scaled"], {})]
    if not flat:
        own += [
            ("Transpose", [keys], [f"{n}/turned"], {"perm": [0, 1, 3, 2]}),
            ("MatMul", [f"{n}/scaled", f"{n}/turned"], [f"{n}/raw"], {}),
            ("Add", [f"{n}/raw", mask], [f"{n}/scores"], {}),
            ("Softmax", [f"{n}/scores"], [f"{n}/weights"], {"axis": -1}),
            ("MatMul", [f"{n}/weights", values], [f"{n}/seen"], {}),
        ]
    else:
        by_row = f"{n}/by_row"
        own += [
            ("Shape", [f"{n}/scaled"], [f"{n}/form"], {}),
            ("Gather", [f"{n}/form", "first_axis"], [f"{n}/count"], {}),
            ("Mul", [f"{n}/count", "head_count"], [f"{n}/all"], {}),
            ("Concat", [f"{n}/all", "any", "size"], [by_row], {"axis": 0}),
            ("Reshape", [f"{n}/scaled", by_row], [f"{n}/one"], {"allowzero": 0}),
            ("Reshape", [keys, by_row], [f"{n}/keys"], {}),
            ("Reshape", [values, by_row], [f"{n}/values"], {}),
            ("Transpose", [f"{n}/keys"], [f"{n}/turned"], {"perm": [0, 2, 1]}),
            ("MatMul", [f"{n}/one", f"{n}/turned"], [f"{n}/raw"], {}),
            *_masked(n, mask),
            ("Softmax", [f"{n}/scores"], [f"{n}/weights"], {"axis": -1}),
            ("MatMul", [f"{n}/weights", f"{n}/values"], [f"{n}/flat_seen"], {}),
            ("Reshape", [f"{n}/flat_seen", f"{n}/form"], [f"{n}/seen"], {}),
        ]
    return [
        *own,
        ("Transpose", [f"{n}/seen"], [f"{n}/by_tokens"], TURNED),
        ("Reshape", [f"{n}/by_tokens", "joined"], [f"{n}/joined"], {}),
        ("MatMul", [f"{n}/joined", f"{n}.o"], [f"{n}/out"], {}),
    ]


def _masked(n: str, mask: str) -> list[Node]:
    """Return the scores of heads, or of rows and heads in one axis, with a mask if there is one."""
    if not mask:
        return [("Identity", [f"{n}/raw"], [f"{n}/scores"], {})]
    return [
        ("Shape", [f"{n}/raw"], [f"{n}/raw_shape"], {}),
        ("Slice", [f"{n}/raw_shape", "one_axis", "three"], [f"{n}/last_two"], {}),
        ("Concat", ["any", "head_count", f"{n}/last_two"], [f"{n}/apart"], {"axis": 0}),
        ("Reshape", [f"{n}/raw", f"{n}/apart"], [f"{n}/by_heads"], {}),
        ("Add", [f"{n}/by_heads", mask], [f"{n}/masked"], {}),
        ("Reshape", [f"{n}/masked", f"{n}/raw_shape"], [f"{n}/scores"], {}),
    ]


def _mask_of(name: str) -> list[Node]:
    """Return what is added to the scores of padded tokens: (rows, 1, 1, S)."""
    return [
        ("Cast", [name], ["there"], {"to": TensorProto.FLOAT}),
        ("Sub", ["one_float", "there"], ["missing"], {}),
        ("Mul", ["missing", "least"], ["penalty"], {}),
        ("Unsqueeze", ["penalty", "middle"], ["mask"], {}),
    ]


def _embed(past: str) -> list[Node]:
    """Return words and places; places go on after a past."""
    counted = [
        ("Shape", ["input_ids"], ["ids/shape"], {}),
        ("Gather", ["ids/shape", "one"], ["length"], {}),
    ]
    start, more = "zero", []
    if past:
        more = [
            ("Shape", [past], ["past/shape"], {}),
            ("Gather", ["past/shape", "two"], ["past/length"], {}),
        ]
        start = "past/length"
    return [
        *counted,
        *more,
        ("Add", [start, "length"], ["stop"], {}),
        ("Range", [start, "stop", "one"], ["own"], {}),
        ("Add", ["own", "offset"], ["places/index"], {}),
        ("Gather", ["places", "places/index"], ["placed"], {}),
        ("Gather", ["table", "input_ids"], ["words"], {}),
        ("Add", ["words", "placed"], ["x"], {}),
    ]


def _self_mask(total: str, past: str) -> list[Node]:
    """Return a causal mask and a bias by distance: (1, H, Q, P + Q)."""
    return [
        ("Shape", [total], ["total/shape"], {}),
        ("Gather", ["total/shape", "two"], ["total/length"], {}),
        ("Range", ["zero", "total/length", "one"], ["columns"], {}),
        ("Unsqueeze", ["own", "first_of_two"], ["rows"], {}),
        ("Sub", ["rows", "columns"], ["distance"], {}),
        ("Less", ["distance", "zero"], ["ahead"], {}),
        ("Cast", ["distance"], ["far"], {"to": TensorProto.FLOAT}),
        ("Mul", ["far", "slopes"], ["bias"], {}),
        ("Where", ["ahead", "least", "bias"], ["seen_before"], {}),
        ("Unsqueeze", ["seen_before", "zero_axis"], ["own_mask"], {}),
    ]


def encoder_nodes() -> list[Node]:
    """Return an encoder of one layer."""
    return [
        *_embed(""),
        *_mask_of("attention_mask"),
        *(n for p in "qkv" for n in _by_heads("x", f"enc.{p}", f"enc/{p}", "x")),
        *_attend("enc", "enc/k", "enc/v", "mask", flat=False),
        ("Add", ["x", "enc/out"], ["last_hidden_state"], {}),
    ]


def decoder_nodes(*, cached: bool, flat: bool) -> list[Node]:
    """Return a decoder of one layer: its first step, or a later one."""
    past, own, seen = "past_key_values.0", "present.0.decoder", "present.0.encoder"
    keys = [f"{(past + '.encoder') if cached else seen}.{kind}" for kind in ("key", "value")]
    names = {kind: f"new/{kind}" if cached else f"{own}.{kind}" for kind in ("key", "value")}
    nodes = [
        *_embed(f"{past}.decoder.key" if cached else ""),
        *_by_heads("x", "own.q", "own/q", "x"),
        *_by_heads("x", "own.k", names["key"], "x"),
        *_by_heads("x", "own.v", names["value"], "x"),
    ]
    if cached:
        nodes += [
            ("Concat", [f"{past}.decoder.{kind}", made], [f"{own}.{kind}"], {"axis": -2})
            for kind, made in names.items()
        ]
    else:
        for kind, weight in (("key", "cross.k"), ("value", "cross.v")):
            nodes += _by_heads("encoder_hidden_states", weight, f"{seen}.{kind}", "x")
    if not flat:
        nodes += _self_mask(f"{own}.key", past)
    return [
        *nodes,
        *_attend("own", f"{own}.key", f"{own}.value", "" if flat else "own_mask", flat=flat),
        ("Add", ["x", "own/out"], ["y"], {}),
        *_mask_of("encoder_attention_mask"),
        *_by_heads("y", "cross.q", "cross/q", "y"),
        *_attend("cross", *keys, "mask", flat=flat),
        ("Add", ["y", "cross/out"], ["z"], {}),
        ("MatMul", ["z", "turned"], ["logits"], {}),
    ]


def weights(seed: int = 3) -> list[TensorProto]:
    """Return the constants; the head is the table, turned."""
    dice = np.random.default_rng(seed)
    table = dice.normal(size=(VOCABULARY, WIDTH))
    floats = {
        "table": table,
        "turned": table.T,
        "places": dice.normal(size=(CONTEXT + FIRST, WIDTH)),
        "scale": np.array(HEAD**-0.5),
        "least": np.array(-1e9),
        "one_float": np.array(1.0),
        "slopes": np.array([0.1, -0.2]).reshape(HEADS, 1, 1),
    }
    for name in ("enc", "own", "cross"):
        parts = {f"{name}.{part}": dice.normal(size=(WIDTH, WIDTH)) / 3 for part in "qkvo"}
        floats |= parts
    ints = {
        "heads": [-1, HEADS, HEAD], "size": [HEAD], "joined": [0, 0, WIDTH],
        "any": [-1], "head_count": [HEADS], "one_axis": [1], "three": [3], "middle": [1, 2],
        "first_axis": [0], "first_of_two": [1], "zero_axis": [0],
        "zero": 0, "one": 1, "two": 2, "offset": FIRST,
    }  # fmt: skip
    arrays = {name: array.astype(np.float32) for name, array in floats.items()}
    arrays |= {name: np.array(value) for name, value in ints.items()}
    return [
        numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()
    ]


def make_model(
    nodes: Sequence[Node], outputs: Mapping[str, Sequence[Any]], opset: int = 17
) -> onnx.ModelProto:
    """Return a graph of those inputs and weights that its nodes read."""
    made = [helper.make_node(op, i, o, **more) for op, i, o, more in nodes]
    read = {name for node in made for name in node.input}
    kept = [tensor for tensor in weights() if tensor.name in read]
    given = {name for node in made for name in node.output} | {t.name for t in kept}
    inputs = [_input(name) for name in sorted(read - given)]
    tensor = helper.make_tensor_value_info
    declared = [tensor(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(made, "published", inputs, declared, kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _input(name: str) -> onnx.ValueInfoProto:
    tensor = helper.make_tensor_value_info
    if name.startswith("past"):
        time = "past" if "decoder" in name else "source_length"
        return tensor(name, TensorProto.FLOAT, ["rows", HEADS, time, HEAD])
    if name == "encoder_hidden_states":
        return tensor(name, TensorProto.FLOAT, ["rows", "source_length", WIDTH])
    return tensor(name, TensorProto.INT64, ["rows", f"{name}_length"])


def make_pair(*, flat: bool = False) -> dict[str, onnx.ModelProto]:
    """Return the three graphs by the stems of their files."""
    logits = {"logits": ["rows", "length", VOCABULARY]}
    own = {f"present.0.decoder.{k}": ["rows", HEADS, "total", HEAD] for k in ("key", "value")}
    seen = {f"present.0.encoder.{k}": ["rows", HEADS, "source", HEAD] for k in ("key", "value")}
    states = {"last_hidden_state": ["rows", "source", WIDTH]}
    return {
        "encoder_model": make_model(encoder_nodes(), states),
        "decoder_model": make_model(
            decoder_nodes(cached=False, flat=flat), {**logits, **own, **seen}
        ),
        "decoder_with_past_model": make_model(
            decoder_nodes(cached=True, flat=flat), {**logits, **own}
        ),
    }


def make_merged() -> dict[str, onnx.ModelProto]:
    """Return the encoder, and both decoders in one graph, as optimum merges them."""
    models = make_pair()
    first, later = models["decoder_model"].graph, models["decoder_with_past_model"].graph
    empty = numpy_helper.from_array(np.zeros((0, HEADS, 1, HEAD), np.float32))
    given = {value.name for value in later.output}
    missing = [value.name for value in first.output if value.name not in given]
    nothing = [helper.make_node("Constant", [], [name], value=empty) for name in missing]
    names = [value.name for value in first.output]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    then = helper.make_graph([*later.node, *nothing], "then", [], outputs)
    other = helper.make_graph(first.node, "else", [], outputs)
    inputs = {value.name: value for graph in (first, later) for value in graph.input}
    chosen = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    stored = {tensor.name: tensor for graph in (first, later) for tensor in graph.initializer}
    merged = helper.make_graph(
        [helper.make_node("If", [chosen.name], names, then_branch=then, else_branch=other)],
        "merged",
        [*inputs.values(), chosen],
        first.output,
        list(stored.values()),
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(merged, opset_imports=opsets, ir_version=9)
    return {"encoder_model": models["encoder_model"], "decoder_model_merged": model}


def write_folder(folder: Path, models: Mapping[str, onnx.ModelProto], suffix: str = "") -> Path:
    """Write a folder of published graphs: without weights, with a tokenizer."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    for stem, model in models.items():
        onnx.save(model, folder / "onnx" / f"{stem}{suffix}.onnx")
    write_json(folder / "config.json", CONFIG)
    tiny_text.write_byte_bpe(folder, "json")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder
