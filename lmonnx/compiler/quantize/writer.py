"""Nodes and constants of a graph in the making, whose weights go to a file of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from lmonnx.compiler.graph import MICROSOFT, WeightFile, read_weight

_SMALL = 1024  # bytes of a constant that stays in the graph itself
_MICROSOFTS = frozenset({"GatherBlockQuantized", "MatMulIntegerToFloat", "MatMulNBits", "QGemm"})


@dataclass(slots=True)
class GraphWriter:
    """What is written so far: `nodes` in their order, and constants that were `added`."""

    model: onnx.ModelProto
    folder: Path
    weights: WeightFile
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """Return the values of one of the source's constants."""
        return read_weight(tensor, self.folder)

    def copied(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Take a constant over."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return tensor
        return self.weights.add(tensor.name, self.read(tensor))

    def kept(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Return a constant of the source that the new nodes read: as it is, by default."""
        return self.copied(tensor)

    def replace(self, tensors: Mapping[str, onnx.TensorProto]) -> None:
        """Put the new nodes in the place of the graph's, with the constants that they read.

        Args:
            tensors: The source's constants by name.
        """
        graph = self.model.graph
        used = {name for node in self.nodes for name in reads(node)}
        del graph.node[:]
        graph.node.extend(self.nodes)
        del graph.initializer[:]
        for name in (*tensors, *self.added):
            if name in used:
                graph.initializer.append(self.added.get(name) or self.kept(tensors[name]))

    def store(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant, once a name; return the name."""
        if name not in self.added:
            small = array.nbytes < _SMALL
            made = onnx.numpy_helper.from_array(np.asarray(array), name) if small else None
            self.added[name] = made or self.weights.add(name, array)
        return name

    def op(self, op_type: str, inputs: list[str], name: str, output: str = "", **kw: Any) -> str:
        """Add a node of one output; return the output's name."""
        domain = MICROSOFT if op_type in _MICROSOFTS else ""
        result = output or f"{name}_output"
        self.nodes.append(
            helper.make_node(op_type, inputs, [result], name=name, domain=domain, **kw)
        )
        return result


def readers_of(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """Return what reads each value, a node as often as it does.

    A node reads what the graphs within it do. An output of the graph has a reader that does
    nothing.
    """
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in reads(node):
            found.setdefault(name, []).append(node)
    for output in graph.output:
        found.setdefault(output.name, []).append(onnx.NodeProto())
    return found


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield all values that a node reads, those of the graphs within it too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from reads(inner)
