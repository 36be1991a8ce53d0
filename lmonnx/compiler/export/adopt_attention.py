"""The attentions of a traced graph, found by their form.

    softmax(scale · query·keyᵀ + added)·value

Key and value come from known caches. What stands between is what torch's exporter writes:
views, casts, factors on either side of the product, all heads in one axis with the rows or not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx
from onnx import helper

_VIEWS = frozenset({"Cast", "Identity", "Reshape"})
_FACTORS = frozenset({"Div", "Mul"})
_TURNED = {(0, 1, 3, 2): False, (0, 2, 1): True}  # → whether rows and heads are one axis


@dataclass(frozen=True, slots=True)
class Factor:
    """A value that the product of query and key is multiplied by, or divided by."""

    value: str
    divides: bool


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention of a graph, by the names of its values.

    Attributes:
        query: (rows, H, Q, D), or (rows · H, Q, D) where it is `flat`.
        keys: The cache that keys come from, (rows, H, T, D).
        values: The cache that values come from, alike.
        factors: What the scores are scaled by.
        added: What is added to the scores after that, (…, Q, T).
        flat: That rows and heads are one axis.
        output: As `query`.
    """

    query: str
    keys: str
    values: str
    factors: tuple[Factor, ...]
    added: tuple[str, ...]
    flat: bool
    output: str


def find_attentions(graph: onnx.GraphProto, caches: Collection[str]) -> Iterator[Attention]:
    """Yield the attentions that read keys and values from `caches`."""
    reader = _Reader(graph, caches)
    for node in graph.node:
        if node.op_type == "Softmax":
            found = reader.read(node)
            if found is not None:
                yield found


@dataclass(frozen=True, slots=True)
class _Scores:
    product: onnx.NodeProto
    factors: tuple[Factor, ...] = ()
    added: tuple[str, ...] = ()


class _Reader:
    """Walks from a softmax to what it is of, and to what is made of it."""

    def __init__(self, graph: onnx.GraphProto, caches: Collection[str]) -> None:
        self._caches = caches
        self._makers = {name: node for node in graph.node for name in node.output}
        self._users: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._users[name].append(node)

    def read(self, softmax: onnx.NodeProto) -> Attention | None:
        """Return the attention around a softmax; None where it has another form."""
        product = self._product_of(softmax.output[0])
        scores = self._scores(softmax.input[0])
        if product is None or scores is None:
            return None
        keys = self._keys(scores.product.input[1])
        values = self._source(product.input[1], _VIEWS)
        if keys is None or not values:
            return None
        source, factors, flat = keys
        if _axis(softmax) not in {-1, 2 if flat else 3}:
            return None
        return Attention(
            query=scores.product.input[0],
            keys=source,
            values=values,
            factors=(*scores.factors, *factors),
            added=scores.added,
            flat=flat,
            output=product.output[0],
        )

    def _product_of(self, value: str) -> onnx.NodeProto | None:
        """Return the one product that the weights go to."""
        users = self._users[value]
        if len(users) != 1:
            return None
        (node,) = users
        if node.op_type == "MatMul":
            return node if node.input[0] == value else None
        return self._product_of(node.output[0]) if node.op_type in _VIEWS else None

    def _scores(self, value: str) -> _Scores | None:
        """Return what makes the scores, if a product of query and key does."""
        node = self._makers.get(value)
        if node is None:
            return None
        if node.op_type == "MatMul":
            return _Scores(node) if self._keys(node.input[1]) else None
        if node.op_type in _VIEWS:
            return self._scores(node.input[0])
        if node.op_type == "Add":
            for own, other in (node.input, reversed(node.input)):
                found = self._scores(own)
                if found is not None:
                    return _Scores(found.product, found.factors, (*found.added, other))
            return None
        return self._scaled_scores(node)

    def _scaled_scores(self, node: onnx.NodeProto) -> _Scores | None:
        for own, factor in self._operands(node):
            found = self._scores(own)
            if found is not None and not found.added:  # what is added would be scaled too
                return _Scores(found.product, (*found.factors, factor))
        return None

    def _keys(self, value: str) -> tuple[str, tuple[Factor, ...], bool] | None:
        """Return the cache of the keys, their factors, and whether they are flat."""
        factors: list[Factor] = []
        flat: bool | None = None
        while value not in self._caches:
            node = self._makers.get(value)
            if node is None:
                return None
            if node.op_type == "Transpose" and flat is None:
                flat = _TURNED.get(_perm(node))
                if flat is None:
                    return None
            elif node.op_type in _FACTORS:
                turned = _VIEWS | _FACTORS | {"Transpose"}
                found = [pair for pair in self._operands(node) if self._source(pair[0], turned)]
                if not found:
                    return None
                value, factor = found[0]
                factors.append(factor)
                continue
            elif node.op_type not in _VIEWS:
                return None
            value = node.input[0]
        return None if flat is None else (value, tuple(factors), flat)

    def _source(self, value: str, through: Collection[str]) -> str:
        """Return the cache that a value is made of by some operators alone; "" if none."""
        while value not in self._caches:
            node = self._makers.get(value)
            if node is None or node.op_type not in through:
                return ""
            value = node.input[0]
        return value

    def _operands(self, node: onnx.NodeProto) -> Iterator[tuple[str, Factor]]:
        """Yield each value that a node may scale, and by what."""
        if node.op_type not in _FACTORS:
            return
        left, right = node.input
        yield left, Factor(right, divides=node.op_type == "Div")
        if node.op_type == "Mul":
            yield right, Factor(left, divides=False)


def _perm(node: onnx.NodeProto) -> tuple[int, ...]:
    return tuple(next((each.ints for each in node.attribute if each.name == "perm"), ()))


def _axis(softmax: onnx.NodeProto) -> int:
    stated = {each.name: helper.get_attribute_value(each) for each in softmax.attribute}
    return int(stated.get("axis", -1))
