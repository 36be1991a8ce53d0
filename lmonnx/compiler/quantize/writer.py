"""Nodes and constants of a graph in the making, whose weights go to a file of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from lmonnx.compiler.graph import MICROSOFT, WeightFile, read_weight

_SMALL = 1024  # bytes of a constant that stays in the graph itself
Known = dict[tuple[str, bytes], onnx.TensorProto]
_MICROSOFTS = frozenset({"GatherBlockQuantized", "MatMulIntegerToFloat", "MatMulNBits"})


@dataclass(slots=True)
class GraphWriter:
    """What is written so far: `nodes` in their order, and constants that were `added`.

    `known` are tensors outside the graphs by type and hash of their bytes: two graphs that are
    written with one mapping share what they have in common.
    """

    model: onnx.ModelProto
    folder: Path
    weights: WeightFile
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, onnx.TensorProto] = field(default_factory=dict)
    known: Known = field(default_factory=dict)

    def read(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        """Return the values of one of the source's constants."""
        return read_weight(tensor, self.folder)

    def copied(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Take a constant over."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return tensor
        return self._outside(tensor.name, self.read(tensor))

    def kept(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """Return a constant of the source that the new nodes read: as it is, by default."""
        return self.copied(tensor)

    def replace(self, tensors: Mapping[str, onnx.TensorProto]) -> None:
        """Put the new nodes in the place of the graph's, with the constants that they read.

        Args:
            tensors: The source's constants by name.
        """
        graph = self.model.graph
        used = {name for node in self.nodes for name in node.input}
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
            self.added[name] = made or self._outside(name, array)
        return name

    def _outside(self, name: str, array: NDArray[Any]) -> onnx.TensorProto:
        """Return a tensor in the file of weights: the same bytes are there once, in any shape."""
        data = np.ascontiguousarray(array)
        key = data.dtype.str, sha256(data.reshape(-1).view(np.uint8).data).digest()
        if key not in self.known:
            self.known[key] = self.weights.add(name, data)
        tensor = onnx.TensorProto()
        tensor.CopyFrom(self.known[key])
        tensor.name = name
        del tensor.dims[:]
        tensor.dims.extend(data.shape)
        return tensor

    def op(self, op_type: str, inputs: list[str], name: str, output: str = "", **kw: Any) -> str:
        """Add a node of one output; return the output's name."""
        domain = MICROSOFT if op_type in _MICROSOFTS else ""
        result = output or f"{name}_output"
        self.nodes.append(
            helper.make_node(op_type, inputs, [result], name=name, domain=domain, **kw)
        )
        return result
