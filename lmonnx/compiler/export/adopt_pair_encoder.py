"""optimum's encoder, and what its decoder makes of the encoder's output once → one graph.

    encoder: input_ids, source_lengths → cross_key_values.{i}.key, .value

The keys and values are a part of the graph of the first step. It takes the number of rows from the
decoder's tokens; the sources are as many.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto, helper

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.compiler.edits import read_values, rename_values
from lmonnx.compiler.export.adopt_cache import Around
from lmonnx.compiler.export.adopt_probe import cut_out
from lmonnx.errors import UnsupportedError

STATES, HIDDEN = "last_hidden_state", "encoder_hidden_states"
_INNER = "cross"  # stands before the names of what comes from the decoder
_WAY_OUT = "export the model from its checkpoint instead"


def join_encoder(
    encoder: onnx.ModelProto, first: onnx.ModelProto, cache: CacheSpec, size: int, where: str
) -> None:
    """Give an encoder's graph the inputs and outputs of decision 13.

    Args:
        encoder: Is edited.
        first: The decoder's graph without a past; it gives present.{i}.encoder.key and .value.
        cache: L, H and D of the graphs to be written.
        size: D of `first`; keys and values are filled up with zeros.
        where: What the encoder is called in errors.

    Raises:
        UnsupportedError: The graphs have other inputs or outputs, or the keys and values depend
            on the decoder's tokens.
    """
    _check(encoder, where)
    graph, g = encoder.graph, Around()
    _mask(g)
    part = _cross_part(first, cache, g, where)
    nodes = [*g.nodes, *graph.node, *part.node]
    ends = Around()
    for layer, kind in _parts(cache):
        made = f"{_INNER}/present.{layer}.encoder.{kind}"
        output = f"cross_key_values.{layer}.{kind}"
        ends.fill(made, size, cache.head_size, output, output)
    nodes += ends.nodes
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(part.initializer)
    graph.initializer.extend((g.constants | ends.constants).values())
    _declare(graph, cache)


def _parts(cache: CacheSpec) -> Iterator[tuple[int, str]]:
    for layer in range(cache.layers):
        yield layer, "key"
        yield layer, "value"


def _check(encoder: onnx.ModelProto, where: str) -> None:
    weights = {tensor.name for tensor in encoder.graph.initializer}
    taken = {v.name: v for v in encoder.graph.input if v.name not in weights}
    given = {value.name for value in encoder.graph.output}
    ids = all(v.type.tensor_type.elem_type == TensorProto.INT64 for v in taken.values())
    if taken.keys() != {"input_ids", "attention_mask"} or not ids or STATES not in given:
        raise UnsupportedError(
            f"{where} takes {', '.join(sorted(taken))} and gives {', '.join(sorted(given))}; an "
            f"encoder takes input_ids and attention_mask of int64, and gives {STATES}; {_WAY_OUT}"
        )


def _mask(g: Around) -> None:
    """Append `attention_mask`: 1 for the tokens of each source, (G, S) int64."""
    lengths = g.op("Reshape", g.whole("source_lengths", "lengths"), g.ints([-1, 1]), name="ends")
    places = g.count(g.size("input_ids", 1, "width"), "places")
    there = g.op("Less", places, lengths, name="there")
    g.op("Cast", there, name="attention_mask", output="attention_mask", to=TensorProto.INT64)


def _cross_part(first: onnx.ModelProto, cache: CacheSpec, g: Around, where: str) -> onnx.GraphProto:
    """Return what makes keys and values of `STATES`, its own values renamed."""
    wanted = [f"present.{layer}.encoder.{kind}" for layer, kind in _parts(cache)]
    part = cut_out(first, wanted, _without_tokens(first.graph, g)).graph
    made = {name for node in part.node for name in node.output}
    others = {value.name for value in part.input} - {HIDDEN}
    if others or not made.issuperset(wanted):
        missing = ", ".join(sorted(others or set(wanted) - made))
        raise UnsupportedError(
            f"{where}: the keys and values of the encoder's output are not made of it alone, but "
            f"by {missing}; {_WAY_OUT}"
        )
    names = made | {tensor.name for tensor in part.initializer}
    renamed = {name: f"{_INNER}/{name}" for name in names} | {HIDDEN: STATES}
    rename_values(part.node, renamed)
    for node in part.node:
        node.name = node.name and f"/{_INNER}{node.name}"
    for tensor in part.initializer:
        tensor.name = renamed[tensor.name]
    return part


def _without_tokens(graph: onnx.GraphProto, g: Around) -> list[onnx.NodeProto]:
    """Return the nodes, where sizes of what is made of the decoder's tokens are the sources'.

    Of those only the first, the number of rows, is known.
    """
    rows = g.size("input_ids", 0, "rows")
    of_tokens = {"input_ids"}
    nodes = []
    for node in graph.node:
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        starts = [each.i for each in node.attribute if each.name == "start"]
        if node.op_type == "Shape" and node.input[0] in of_tokens and not any(starts):
            copy = helper.make_node("Identity", [rows], node.output, name=node.name)
        elif of_tokens.intersection(read_values(node)):
            of_tokens.update(node.output)
        nodes.append(copy)
    return nodes


def _declare(graph: onnx.GraphProto, cache: CacheSpec) -> None:
    for field in (graph.input, graph.output, graph.value_info):
        del field[:]
    tensor = helper.make_tensor_value_info
    graph.input.extend(
        [
            tensor("input_ids", TensorProto.INT64, ["sources", "source_length"]),
            tensor("source_lengths", TensorProto.INT32, ["sources"]),
        ]
    )
    shape = ["sources", cache.heads, "source_length", cache.head_size]
    graph.output.extend(
        tensor(f"cross_key_values.{layer}.{kind}", TensorProto.FLOAT, shape)
        for layer, kind in _parts(cache)
    )
