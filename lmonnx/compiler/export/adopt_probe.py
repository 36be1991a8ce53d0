"""Values inside a graph, found by running the part of it that makes them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from lmonnx.compiler.edits import read_values
from lmonnx.compiler.graph import graph_spec, save_graph
from lmonnx.errors import BundleError, UnsupportedError
from lmonnx.runtime.session import Arrays, Session, SessionConfig


class Probe:
    """The parts of a graph that make some values, ready to run on several inputs."""

    def __init__(self, model: onnx.ModelProto, folder: Path, names: Mapping[str, int]) -> None:
        """Take out of `model`, whose weights lie in `folder`, what makes `names`: name → type.

        Raises:
            UnsupportedError: onnxruntime cannot load it.
        """
        self._names = {f"/probe/{name}": name for name in names}
        part = cut_out(model, tuple(names))
        for output, name in self._names.items():  # an input or a constant is no output by itself
            part.graph.node.append(helper.make_node("Cast", [name], [output], to=names[name]))
            part.graph.output.append(helper.make_tensor_value_info(output, names[name], None))
        with tempfile.TemporaryDirectory(prefix="lmonnx-probe-") as place:
            path = Path(place) / "probe.onnx"
            save_graph(part, folder, path, path.name)
            spec = graph_spec(part, path.name)
            try:
                self._session = Session(path, spec, SessionConfig(threads=1))
            except BundleError as error:
                raise UnsupportedError(str(error)) from error

    @property
    def inputs(self) -> frozenset[str]:
        """Return the names of the graph's inputs that the values depend on."""
        return self._session.inputs

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Return the values for some inputs, of which those that are not read are left out.

        Raises:
            UnsupportedError: The graph fails on them.
        """
        try:
            found = self._session.run({name: inputs[name] for name in self.inputs})
        except BundleError as error:
            raise UnsupportedError(str(error)) from error
        return {self._names[output]: value for output, value in found.items()}


def cut_out(
    model: onnx.ModelProto, names: Collection[str], nodes: Sequence[onnx.NodeProto] | None = None
) -> onnx.ModelProto:
    """Return the part of a model that some values of it depend on; it states no outputs.

    Args:
        model: Is copied, as far as it is wanted.
        names: The values.
        nodes: Stand in the place of the model's own.
    """
    graph = model.graph
    wanted = set(names)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node if nodes is None else nodes):
        if wanted.intersection(node.output):
            wanted.update(read_values(node))
            kept.append(node)
    part = helper.make_graph(
        kept[::-1],
        graph.name,
        [value for value in graph.input if value.name in wanted],
        [],
        [tensor for tensor in graph.initializer if tensor.name in wanted],
    )
    return helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Let constants that are nodes be stored as all others are."""
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        tensor = next((each.t for each in node.attribute if each.name == "value"), None)
        if node.op_type != "Constant" or tensor is None:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            continue
        stored = TensorProto.FromString(tensor.SerializeToString())
        stored.name = node.output[0]
        graph.initializer.append(stored)
    del graph.node[:]
    graph.node.extend(kept)
