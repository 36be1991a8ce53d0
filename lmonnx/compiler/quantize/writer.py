"""Nodes and constants of a graph in the making, whose weights go to a file of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from lmonnx.compiler.graph import MICROSOFT, WeightFile, read_weight

_SMALL = 1024  # bytes of a constant that stays in the graph itself


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

    def store(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant, once a name; return the name."""
        if name not in self.added:
            small = array.nbytes < _SMALL
            made = onnx.numpy_helper.from_array(np.asarray(array), name) if small else None
            self.added[name] = made or self.weights.add(name, array)
        return name

    def op(self, op_type: str, inputs: list[str], name: str, output: str = "", **kw: Any) -> str:
        """Add a node of one output; return the output's name."""
        domain = MICROSOFT if op_type == "MatMulIntegerToFloat" else ""
        result = output or f"{name}_output"
        self.nodes.append(
            helper.make_node(op_type, inputs, [result], name=name, domain=domain, **kw)
        )
        return result
