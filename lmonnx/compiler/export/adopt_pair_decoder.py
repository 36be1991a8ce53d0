"""optimum's decoder with a past → the decoder of decision 13, which keeps its cache in place.

What the traced graph says once for all rows, by the length of its past, is said of each row:

    softmax(q·kᵀ + mask)·v of [past, new]    = GroupQueryAttention with the row's own length
    softmax(q·kᵀ + mask)·v of the source     = MultiHeadAttention, the beams of a source as queries
    table[first + P + q]                     = table[first + p_b + q]
    bias[h, q, j] of a past of P             → bias[h, q, j + P - p_b], by distance alone

where p_b is how many tokens row b has before this call, P the most of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import TensorProto, helper

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.compiler.export.adopt_attention import Attention
from lmonnx.compiler.export.adopt_cache import Around
from lmonnx.compiler.export.adopt_places import Lookup
from lmonnx.compiler.graph import MICROSOFT

_MASKED = -3.4028234663852886e38  # as the graphs that are built here have it
KINDS = ("key", "value")


@dataclass(frozen=True, slots=True)
class Layer:
    """What the layers of a decoder do with their caches.

    Attributes:
        attention: By its values in the traced graph.
        scale: What the product of query and key is multiplied by.
        bias: What is added to the scores beyond a mask; "" is nothing.
        new: This call's keys and values, (rows, H, Q, D); of cross attention none.
    """

    attention: Attention
    scale: float
    bias: str = ""
    new: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Traced:
    """A traced decoder, and what was found in it.

    Attributes:
        model: With constants that are initializers; it is edited.
        cache: L, H and D of the graph to be written.
        size: D of the traced graph.
        layers: Each one's self and cross attention.
        lookups: Of tables by place.
        pasts: What its caches are called: the graph's own inputs, and what it makes of past and
            new; name → whether new tokens are in it.
        width: E of the encoder's output.
    """

    model: onnx.ModelProto
    cache: CacheSpec
    size: int
    layers: Sequence[tuple[Layer, Layer]]
    lookups: Sequence[Lookup]
    pasts: Mapping[str, bool]
    width: int


@dataclass(slots=True)
class _Numbers:
    """Numbers of a call, (1,) int64 each but `hole`, which is (rows, 1)."""

    g: Around
    rows: str = field(init=False)
    length: str = field(init=False)  # Q
    total: str = field(init=False)  # P + Q
    past: str = field(init=False)  # P
    sources: str = field(init=False)  # G
    source_length: str = field(init=False)  # S
    hole: str = field(init=False)  # P - p_b

    def __post_init__(self) -> None:
        g = self.g
        self.rows = g.size("input_ids", 0, "rows")
        self.length = g.size("input_ids", 1, "length")
        self.total = g.whole("total_sequence_length", "total")
        past = g.op("Sub", self.total, self.length, name="past/All")
        self.past = g.at_least_0(past, "past")
        self.sources = g.size("source_lengths", 0, "sources")
        self.source_length = g.size("cross_key_values.0.key", 2, "source_length")
        after = g.op("Add", g.whole("seqlens_k", "last"), g.ints([1]), name="after")
        # Of several tokens at once none has a past, and a row may have fewer of them than others.
        before = g.at_least_0(g.op("Sub", after, self.length, name="before/All"), "before")
        hole = g.op("Sub", self.past, before, name="hole")
        self.hole = g.op("Reshape", hole, g.ints([-1, 1]), name="hole/Column")

    def join(self, *parts: str | int, name: str) -> str:
        """Return a list of numbers as one value."""
        values = [self.g.ints([part]) if isinstance(part, int) else part for part in parts]
        return self.g.op("Concat", *values, name=name, axis=0)


def rewrite_decoder(traced: Traced) -> None:
    """Give a traced decoder the inputs of decision 13, and `present`; its logits stay whole.

    What it may still read that nothing makes is for the caller to find.
    """
    graph, g = traced.model.graph, Around()
    numbers = _Numbers(g)
    _say_sizes(traced, numbers)
    in_place = _count_places(traced, numbers) | _attentions(traced, numbers)
    nodes = [
        each
        for node in graph.node
        for each in in_place.get(node.output[0] if node.output else "", [node])
    ]
    del graph.node[:]
    graph.node.extend([*g.nodes, *nodes])
    graph.initializer.extend(g.constants.values())
    if all(opset.domain != MICROSOFT for opset in traced.model.opset_import):
        traced.model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))


def _say_sizes(traced: Traced, n: _Numbers) -> None:
    """Let the graph take the sizes of what it no longer has from what there is."""
    heads, size = traced.cache.heads, traced.size
    shapes = {
        "past": n.join(n.rows, heads, n.past, size, name="sizes/Past"),
        "present": n.join(n.rows, heads, n.total, size, name="sizes/Present"),
        "cross": n.join(n.rows, heads, n.source_length, size, name="sizes/Cross"),
        "mask": n.join(n.rows, n.source_length, name="sizes/Mask"),
        "states": n.join(n.rows, n.source_length, traced.width, name="sizes/States"),
    }
    of = {name: shapes["present" if new else "past"] for name, new in traced.pasts.items()}
    of |= {cross.attention.keys: shapes["cross"] for _, cross in traced.layers}
    of |= {cross.attention.values: shapes["cross"] for _, cross in traced.layers}
    of |= {"encoder_attention_mask": shapes["mask"], "encoder_hidden_states": shapes["states"]}
    for node in traced.model.graph.node:
        if node.op_type == "Shape" and node.input[0] in of:
            stated = {each.name: each.i for each in node.attribute}
            made = of[node.input[0]]
            del node.attribute[:]
            node.op_type = "Identity" if not stated else "Slice"
            ends = (stated.get("start", 0), stated.get("end", 4))
            more = [n.g.ints([each]) for each in ends] if stated else []
            node.input[:] = [made, *more]


def _count_places(traced: Traced, n: _Numbers) -> dict[str, list[onnx.NodeProto]]:
    """Return lookups of each row's own places, to stand for those that make some values.

    The indices of a past of P tokens are those of p_b tokens and the hole of P - p_b; what is less
    than the first of them is no place, but M2M100's row for padding.
    """
    shape = n.join(-1, n.length, name="places/Shape")
    made = {}
    for number, lookup in enumerate(traced.lookups):
        g, at = Around(), f"places/{number}"
        index = g.op("Reshape", lookup.node.input[1], shape, name=f"{at}/Index")
        index = g.op("Cast", index, name=f"{at}/Cast", to=TensorProto.INT64)
        least = g.op("Add", n.past, g.ints([lookup.first]), name=f"{at}/First")
        own = g.op("Sub", index, n.hole, name=f"{at}/Own")
        none = g.op("Less", index, least, name=f"{at}/None")
        own = g.op("Where", none, index, own, name=at)
        node = onnx.NodeProto.FromString(lookup.node.SerializeToString())
        node.input[1] = own
        made[node.output[0]] = [*g.nodes, node]
        n.g.constants |= g.constants
    return made


def _attentions(traced: Traced, n: _Numbers) -> dict[str, list[onnx.NodeProto]]:
    """Return what stands in the place of the nodes that make some values: value → nodes."""
    cache = traced.cache
    wide = cache.heads * cache.head_size
    queries = n.g.op(
        "Mul", n.g.op("Div", n.rows, n.sources, name="beams"), n.length, name="queries"
    )
    shapes = _Shapes(
        packed=n.g.ints([0, 0, wide]),
        parted=n.join(n.rows, n.length, cache.heads, cache.head_size, name="sizes/Parted"),
        joined=n.join(n.sources, queries, wide, name="sizes/Joined"),
        heads=n.join(n.rows, cache.heads, n.length, traced.size, name="sizes/Heads"),
        flat=n.join(-1, n.length, traced.size, name="sizes/Flat"),
    )
    made = {}
    biases: dict[str, str] = {}
    for index, (own, cross) in enumerate(traced.layers):
        writer = _Writer(Around(), cache, traced.size, shapes, f"layers.{index}")
        if own.bias and own.bias not in biases:
            biases[own.bias] = _by_row(writer.g, own.bias, n)
        writer.read_answer(index, own, biases.get(own.bias, ""))
        made[own.attention.output] = writer.g.nodes
        n.g.constants |= writer.g.constants
        writer = _Writer(Around(), cache, traced.size, shapes, f"layers.{index}")
        writer.read_source(index, cross)
        made[cross.attention.output] = writer.g.nodes
        n.g.constants |= writer.g.constants
    return made


def _by_row(g: Around, bias: str, n: _Numbers) -> str:
    """Return a bias (·, H, Q, P + Q), alike in all rows, as each row's own: (rows, H, Q, P + Q)."""
    name = f"bias/{bias}"
    one = g.op("Gather", bias, g.ints(0), name=f"{name}/One", axis=0)  # (H, Q, P + Q)
    places = g.op("Add", g.count(n.total, f"{name}/Places"), n.hole, name=f"{name}/Shifted")
    last = g.op("Sub", n.total, g.ints([1]), name=f"{name}/Last")
    beyond = g.op("Less", last, places, name=f"{name}/Beyond")  # is masked by the kernel
    places = g.op("Where", beyond, last, places, name=f"{name}/Place")  # (rows, P + Q)
    rows = g.op("Gather", one, places, name=f"{name}/Rows", axis=2)  # (H, Q, rows, P + Q)
    return g.op("Transpose", rows, name=name, perm=[2, 0, 1, 3])


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Shapes of queries and of what they see, as values of the graph."""

    packed: str  # (0, 0, H·D)
    parted: str  # (rows, Q, H, D)
    joined: str  # (G, n·Q, H·D)
    heads: str  # (rows, H, Q, D)
    flat: str  # (rows·H, Q, D)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the attentions of a layer."""

    g: Around
    cache: CacheSpec
    size: int
    shapes: _Shapes
    name: str

    def read_answer(self, index: int, layer: Layer, bias: str) -> None:
        """Append what each token sees of the answer so far."""
        name = f"{self.name}/self"
        query = self._by_heads(layer.attention, name)
        new = [self._packed(v, f"{name}/{k}") for k, v in zip(KINDS, layer.new, strict=True)]
        seen = f"/cache/{name}_output"
        self.g.op(
            "GroupQueryAttention",
            *(self._packed(query, f"{name}/query"), *new),
            *(f"past_key_values.{index}.{kind}" for kind in KINDS),
            *("seqlens_k", "total_sequence_length"),
            *(["", "", "", bias] if bias else []),
            name=name,
            output=[seen, *(f"present.{index}.{kind}" for kind in KINDS)],
            domain=MICROSOFT,
            num_heads=self.cache.heads,
            kv_num_heads=self.cache.heads,
            do_rotary=0,
            scale=layer.scale,
        )
        self._give(seen, layer.attention, name)

    def read_source(self, index: int, layer: Layer) -> None:
        """Append what each token sees of its row's source, whose beams stand side by side."""
        name = f"{self.name}/cross"
        query = self._packed(self._by_heads(layer.attention, name), f"{name}/query")
        joined = self.g.op("Reshape", query, self.shapes.joined, name=f"{name}/Join")
        seen = self.g.op(
            "MultiHeadAttention",
            joined,
            *(f"cross_key_values.{index}.{kind}" for kind in KINDS),
            *("", "source_lengths"),
            name=name,
            domain=MICROSOFT,
            num_heads=self.cache.heads,
            scale=layer.scale,
            mask_filter_value=_MASKED,
        )
        self._give(seen, layer.attention, name)

    def _by_heads(self, attention: Attention, name: str) -> str:
        if not attention.flat:
            return attention.query
        return self.g.op("Reshape", attention.query, self.shapes.heads, name=f"{name}/Heads")

    def _packed(self, value: str, name: str) -> str:
        """Return (rows, H, Q, D) as (rows, Q, H·D)."""
        filled = self.g.fill(value, self.size, self.cache.head_size, name)
        turned = self.g.op("Transpose", filled, name=f"{name}/Turned", perm=[0, 2, 1, 3])
        return self.g.op("Reshape", turned, self.shapes.packed, name=f"{name}/Packed")

    def _give(self, seen: str, attention: Attention, name: str) -> None:
        """Append what makes the traced graph's value of what was seen."""
        g, more = self.g, self.cache.head_size > self.size
        parted = g.op("Reshape", seen, self.shapes.parted, name=f"{name}/Parted")
        if more:
            cut = [g.ints([each]) for each in (0, self.size, 3)]
            parted = g.op("Slice", parted, *cut, name=f"{name}/Cut")
        flat = attention.flat
        output = "" if flat else attention.output
        turned = g.op("Transpose", parted, name=f"{name}/Back", output=output, perm=[0, 2, 1, 3])
        if flat:
            g.op("Reshape", turned, self.shapes.flat, name=f"{name}/Flat", output=attention.output)
