"""A graph that appends to its past → one that reads and writes a cache in place (decision 11).

The graph stays as it is; nodes before it give it what it knows, nodes after it take what it gives:

    past[b, :, j] = cache[b, :, j - hole_b]    hole_b = P - p_b, the row's padding on the left
    attention_mask[b, j] = j ≥ hole_b          (B, P + S)
    position_ids[b, s] = p_b + s               (B, S)
    cache[b, :, p_b + s] = present[b, :, P + s]

where p_b is how many tokens a row has before this call, P the most of all rows. Padding on the left
is what every decoder of transformers is generated with in batches, so masks, windows, ALiBi and
counted positions hold. ScatterND writes in place where cache and present are bound to one memory.
A graph of GroupQueryAttention that reads its past as the contract says is given the cache itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.compiler.edits import constant_values, drop_dead, read_values, rename_values
from lmonnx.errors import UnsupportedError

_END = np.iinfo(np.int64).max
_TRACED = "traced"
_ATTENTION = "GroupQueryAttention"
_PAST_KEY, _PAST_VALUE, _LENGTHS, _TOTAL = 3, 4, 5, 6  # its inputs
# The head's product, and what may stand between it and the logits, value by value.
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "MatMulNBits"})
_ELEMENTWISE = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Sub", "Tanh"})


class Around:
    """The nodes and constants that stand around a traced graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def op(
        self, op_type: str, *inputs: str, name: str, output: str | list[str] = "", **attributes: Any
    ) -> str:
        """Append a node; return what it makes, the first of several."""
        made = output if isinstance(output, list) else [output or f"/cache/{name}_output"]
        node = helper.make_node(op_type, inputs, made, name=f"/cache/{name}", **attributes)
        self.nodes.append(node)
        return made[0]

    def ints(self, value: int | list[int]) -> str:
        """Store an int64 constant, a scalar or a list; equal ones once."""
        array = np.array(value, np.int64)
        name = f"/cache/int64_{'_'.join(map(str, array.reshape(-1)))}_{array.ndim}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def size(self, value: str, axis: int, name: str) -> str:
        """Return a value's length along an axis: (1,)."""
        sizes = self.op("Shape", value, name=f"{name}/Shape")
        return self.op("Gather", sizes, self.ints([axis]), name=name)

    def whole(self, value: str, name: str) -> str:
        """Return an input of one number or several as int64, a list where it is a scalar."""
        wide = self.op("Cast", value, name=f"{name}/Cast", to=TensorProto.INT64)
        return self.op("Reshape", wide, self.ints([-1]), name=name)

    def count(self, end: str, name: str) -> str:
        """Return 0 … end - 1 of `end` (1,)."""
        stop = self.op("Reshape", end, self.ints([]), name=f"{name}/End")
        return self.op("Range", self.ints(0), stop, self.ints(1), name=name)

    def first_wanted(self, length: str) -> str:
        """Return the first of `length` places whose logits `logits_to_keep` asks for: (1,)."""
        kept = self.op("Reshape", "logits_to_keep", self.ints([1]), name="kept")
        return self.at_least_0(self.op("Sub", length, kept, name="unwanted"), "first")

    def fill(self, value: str, size: int, filled: int, name: str, output: str = "") -> str:
        """Return a value of four axes with zeros after the last one's `size` numbers."""
        if size == filled:
            return self.op("Identity", value, name=f"{name}/Filled", output=output)
        pads = self.ints([0] * 7 + [filled - size])
        return self.op("Pad", value, pads, name=f"{name}/Filled", output=output)

    def at_least_0(self, value: str, name: str) -> str:
        """Return max(value, 0), of int64 also before opset 12."""
        low = self.op("Less", value, self.ints(0), name=f"{name}/Less")
        return self.op("Where", low, self.ints(0), value, name=name)


def share_cache(model: onnx.ModelProto, cache: CacheSpec, vocabulary: int, where: str) -> None:
    """Give a graph the inputs and outputs of decision 11.

    Args:
        model: Is edited. It takes input_ids, past_key_values.{i}.key and .value, and may take
            attention_mask and position_ids; it gives logits, present.{i}.key and .value.
        cache: What it reads and writes.
        vocabulary: V.
        where: What it is called in errors.

    Raises:
        UnsupportedError: Its attention reads a past in place and a mask besides.
    """
    graph, g = model.graph, Around()
    length = g.size("input_ids", 1, "length")  # S
    past = g.op("Sub", g.whole("total_sequence_length", "total"), length, name="past")  # P
    last = g.whole("seqlens_k", "last")
    after = g.op("Add", last, g.ints(1), name="after")
    before = g.op("Sub", after, length, name="before")  # p, (B,)
    column = g.op("Reshape", before, g.ints([-1, 1]), name="before/Column")
    new = g.count(length, "new")
    g.op("Add", column, new, name="position_ids", output="position_ids")
    names = list(_names(cache))
    if _reads_in_place(graph, names):
        _let_through(graph)
        after_nodes = Around()
    else:
        hole = g.op("Sub", past, before, name="hole")
        _mask(g, hole)
        rename_values(graph.node, {f"present.{name}": f"{_TRACED}.{name}" for name in names})
        _align(g, cache, past, hole, graph)
        after_nodes = _write_back(cache, length, before)
    body = cut_logits(graph, g, g.first_wanted(length))
    nodes = [*g.nodes, *body, *after_nodes.nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend((g.constants | after_nodes.constants).values())
    _declare(graph, cache, vocabulary)
    drop_dead(graph)
    _check_inputs(graph, where)


def _names(cache: CacheSpec) -> Iterator[str]:
    for layer in range(cache.layers):
        yield f"{layer}.key"
        yield f"{layer}.value"


def _mask(g: Around, hole: str) -> None:
    column = g.op("Reshape", hole, g.ints([-1, 1]), name="hole/Column")
    places = g.count("/cache/total_output", "places")
    empty = g.op("Less", places, column, name="empty")
    full = g.op("Not", empty, name="full")
    g.op("Cast", full, name="attention_mask", output="attention_mask", to=TensorProto.INT64)


def _align(g: Around, cache: CacheSpec, past: str, hole: str, graph: onnx.GraphProto) -> None:
    """Give the graph a past (B, K, P, D) that ends, and does not start, at one place in all rows.

    A row's hole repeats its first place: what is there is masked, but must be finite.
    """
    cells = g.op("Reshape", hole, g.ints([-1, 1, 1]), name="hole/Cells")
    places = g.op("Sub", g.count(past, "old"), cells, name="old/Shifted")  # (B, 1, P)
    places = g.at_least_0(places, "old/Place")
    rows = g.op("Mul", g.size("input_ids", 0, "rows"), g.ints(cache.heads), name="heads")
    room = g.size("past_key_values.0.key", 2, "room")  # T
    starts = g.op("Mul", g.count(rows, "heads/Range"), room, name="heads/Start")
    starts = g.op("Reshape", starts, g.ints([-1, cache.heads, 1]), name="heads/Cells")
    index = g.op("Add", starts, places, name="old/Index")  # (B, K, P)
    for name in _names(cache):
        value = f"past_key_values.{name}"
        rows = g.op("Reshape", value, g.ints([-1, cache.head_size]), name=f"{name}/Rows")
        aligned = g.op("Gather", rows, index, name=f"{name}/Aligned", axis=0)
        rename_values(graph.node, {value: aligned})


def _write_back(cache: CacheSpec, length: str, before: str) -> Around:
    """Return nodes that put the last S rows of what the graph gives at each row's own end."""
    g = Around()
    one = g.ints([1])
    count = g.size("input_ids", 0, "written/Rows")
    shape = g.op("Concat", count, g.ints([cache.heads]), length, one, name="written/Sizes", axis=0)
    base = g.op("Reshape", before, g.ints([-1, 1, 1, 1]), name="written/Before")
    places = g.op("Reshape", "/cache/new_output", g.ints([1, 1, -1, 1]), name="written/New")
    parts = (
        g.op("Reshape", g.count(count, "written/Row"), g.ints([-1, 1, 1, 1]), name="written/RowOf"),
        g.op("Reshape", g.ints(list(range(cache.heads))), g.ints([1, -1, 1, 1]), name="written/K"),
        g.op("Add", base, places, name="written/Place"),
    )
    spread = [g.op("Expand", part, shape, name=f"{part}/Expand") for part in parts]
    index = g.op("Concat", *spread, name="written/Index", axis=3)  # (B, K, S, 3)
    start = g.op("Neg", length, name="written/Start")
    for name in _names(cache):
        ends = (g.ints([_END]), g.ints([2]))
        rows = g.op("Slice", f"{_TRACED}.{name}", start, *ends, name=f"{name}/New")
        inputs = (f"past_key_values.{name}", index, rows)
        g.op("ScatterND", *inputs, name=f"{name}/Written", output=f"present.{name}")
    return g


def _reads_in_place(graph: onnx.GraphProto, names: list[str]) -> bool:
    """Say whether attention operators take every past as it comes, and nothing else reads it."""
    pasts = {f"past_key_values.{name}" for name in names}
    taken = set()
    for node in graph.node:
        if node.op_type == _ATTENTION:
            taken.update(node.input[_PAST_KEY : _PAST_VALUE + 1])
        elif pasts.intersection(read_values(node)):
            return False
    return taken == pasts


def _let_through(graph: onnx.GraphProto) -> None:
    """Let the attention operators take each row's length from the contract's inputs."""
    for node in graph.node:
        if node.op_type == _ATTENTION:
            node.input[_LENGTHS], node.input[_TOTAL] = "seqlens_k", "total_sequence_length"


def cut_logits(graph: onnx.GraphProto, g: Around, first: str) -> list[onnx.NodeProto]:
    """Return a graph's nodes that give the logits from place `first` on.

    Args:
        graph: Its nodes may be edited.
        g: Where constants go.
        first: What is before it is cut off, ahead of the head where that is the same.
    """
    end, axis = g.ints([_END]), g.ints([1])
    head = _head(graph)
    if head is None:
        rename_values(graph.node, {"logits": f"{_TRACED}.logits"})
        inputs = [f"{_TRACED}.logits", first, end, axis]
        cut = helper.make_node("Slice", inputs, ["logits"], name="/cache/logits")
        return [*graph.node, cut]
    inputs = [head.input[0], first, end, axis]
    cut = helper.make_node("Slice", inputs, ["/cache/wanted_output"], name="/cache/wanted")
    head.input[0] = "/cache/wanted_output"
    return [each for node in graph.node for each in ((cut, node) if node is head else (node,))]


def _head(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """Return the product that makes the logits, if nothing after it looks at the sequence."""
    makers = {name: node for node in graph.node for name in node.output}
    constants, value = constant_values(graph), "logits"
    while (node := makers.get(value)) is not None:
        if node.op_type in _PRODUCTS and constants.issuperset(node.input[1:]):
            return node
        moving = [name for name in node.input if name not in constants]
        if node.op_type not in _ELEMENTWISE or len(moving) != 1:
            return None
        value = moving[0]
    return None


def _declare(graph: onnx.GraphProto, cache: CacheSpec, vocabulary: int) -> None:
    """State the contract's inputs and outputs; shapes within the graph are found anew."""
    for field in (graph.input, graph.output, graph.value_info):
        del field[:]
    tensor = helper.make_tensor_value_info
    graph.input.extend(
        [
            tensor("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
            tensor("seqlens_k", TensorProto.INT32, ["batch_size"]),
            tensor("total_sequence_length", TensorProto.INT32, []),
            tensor("logits_to_keep", TensorProto.INT64, []),
        ]
    )
    logits = ["batch_size", "kept_length", vocabulary]
    graph.output.append(tensor("logits", TensorProto.FLOAT, logits))
    for name in _names(cache):
        for field, kind, time in (
            (graph.input, "past_key_values", "past"),
            (graph.output, "present", "total"),
        ):
            shape = ["batch_size", cache.heads, f"{time}_sequence_length", cache.head_size]
            field.append(tensor(f"{kind}.{name}", TensorProto.FLOAT, shape))


def _check_inputs(graph: onnx.GraphProto, where: str) -> None:
    """Refuse a graph that reads what nothing makes: a mask beside a past that is read in place."""
    if missing := missing_values(graph):
        raise UnsupportedError(
            f"{where}: {_ATTENTION} takes the past as it is, and {min(missing)} is read besides; "
            "export the model from its checkpoint"
        )


def missing_values(graph: onnx.GraphProto) -> set[str]:
    """Return the names of what nodes read and nothing makes."""
    made = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    made.update(name for node in graph.node for name in node.output)
    return {name for node in graph.node for name in node.input} - made - {""}
