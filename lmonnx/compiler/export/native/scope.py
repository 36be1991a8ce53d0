"""What every block is given: the graph in the making, and the checkpoint's tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.graph import GraphBuilder


@dataclass(frozen=True, slots=True)
class Scope:
    """Where blocks write and read: the graph in the making and the checkpoint's tensors.

    `turn` stands before the names of nodes where one set of weights serves several layers.
    """

    graph: GraphBuilder
    params: Params
    turn: str = ""

    def op(self, op_type: str, *inputs: str, name: str, **attributes: object) -> str:
        """Append a node; see `GraphBuilder.op`."""
        return self.graph.op(op_type, *inputs, name=f"/{self.turn}{name}", **attributes)  # type: ignore[arg-type]

    def floats(self, value: float) -> str:
        """Return a float32 scalar constant."""
        return self.graph.const(value, np.float32)

    def ints(self, *values: int) -> str:
        """Return an int64 vector constant."""
        return self.graph.const(values, np.int64)
