"""ONNX graphs as they are written: nodes by name, weights streamed to one aligned file outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from lmonnx.bundle.manifest import GraphSpec, TensorSpec
from lmonnx.errors import StageError

OPSET = 17  # the newest that every client of DESIGN's list reads without a converter
IR_VERSION = 8
MICROSOFT = "com.microsoft"
INLINE_BYTES = 1024  # smaller tensors stay in the protobuf: shapes, scalars, axes
PAGE = 4096  # a mapped tensor that starts on a page is mapped alone
CACHE_LINE = 64


# Tensors outside of graphs by the type and hash of their bytes.
Known = dict[tuple[str, bytes], TensorProto]


class WeightFile:
    """Stream tensors to `NAME.onnx_data`, aligned, so that only one is in memory at a time.

    Files that share one `known` hold the same bytes once, in whichever had them first.
    """

    def __init__(self, path: Path, known: Known | None = None) -> None:
        self.location, self.folder = path.name, path.parent
        self._known = known
        self._file: BinaryIO = path.open("wb")
        self._end = 0

    def add(self, name: str, array: NDArray[Any]) -> TensorProto:
        """Append `array`; return the tensor that points at its place in the file."""
        data = np.ascontiguousarray(array)
        if self._known is None:
            return self._append(name, data)
        key = data.dtype.str, sha256(data.reshape(-1).view(np.uint8).data).digest()
        if key not in self._known:
            self._known[key] = self._append(name, data)
        return renamed(self._known[key], name, data.shape)

    def _append(self, name: str, data: NDArray[Any]) -> TensorProto:
        step = PAGE if data.nbytes >= PAGE else CACHE_LINE
        offset = -(-self._end // step) * step
        self._file.write(b"\0" * (offset - self._end))
        self._file.write(data.reshape(-1).view(np.uint8).data)
        self._end = offset + data.nbytes
        return self.tensor_at(name, data.dtype, data.shape, offset)

    def tensor_at(
        self, name: str, dtype: DTypeLike, shape: Sequence[int], offset: int
    ) -> TensorProto:
        """Return a tensor that points at some place of the file."""
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
            dims=shape,
            data_location=TensorProto.EXTERNAL,
        )
        size = prod(shape) * np.dtype(dtype).itemsize
        place = {"location": self.location, "offset": offset, "length": size}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def close(self) -> None:
        """Flush what was written."""
        self._file.close()


@dataclass(slots=True)
class GraphBuilder:
    """Collect the nodes of one graph in the order of its data flow.

    Every value is named after the node that makes it, so names are stable from run to run.
    """

    weights: WeightFile
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    initializers: dict[str, TensorProto] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """Declare a graph input; a string in `shape` is an axis free at run time."""
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, elem, shape))
        return name

    def output(self, value: str, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Give `value` the public name `name` and declare it an output."""
        self.op("Identity", value, name=f"/{name}", outputs=[name])
        elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(helper.make_tensor_value_info(name, elem, shape))

    def op(
        self,
        op_type: str,
        *inputs: str,
        name: str,
        outputs: Sequence[str] = (),
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append one node; return its first output.

        Raises:
            StageError: A node of that name exists already.
        """
        if name in self.names:
            raise StageError(f"two nodes are called {name}; this is a fault of the exporter")
        self.names.add(name)
        results = list(outputs) or [f"{name}_output"]
        node = helper.make_node(op_type, inputs, results, name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return results[0]

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Store a tensor once under `name`: outside the protobuf unless it is tiny."""
        if name not in self.initializers:
            inline = array.nbytes < INLINE_BYTES
            self.initializers[name] = (
                numpy_helper.from_array(np.ascontiguousarray(array), name)
                if inline
                else self.weights.add(name, array)
            )
        return name

    def const(self, value: Any, dtype: Any) -> str:
        """Store a small constant, named after its value so that equal ones are shared."""
        array = np.asarray(value, dtype)
        name = f"const_{array.dtype}_" + "_".join(str(v) for v in array.reshape(-1))
        return self.weight(name if array.ndim else f"{name}_scalar", array)

    def model(self, name: str) -> onnx.ModelProto:
        """Close the graph: every initializer is listed, opset and IR version are set."""
        graph = helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, list(self.initializers.values())
        )
        return make_model(graph)


def make_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """Wrap a graph with the versions that all clients of a bundle can read."""
    domains = {node.domain for node in graph.node}
    opsets = [helper.make_opsetid("", OPSET)]
    if MICROSOFT in domains:
        opsets.append(helper.make_opsetid(MICROSOFT, 1))
    return helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="lmonnx"
    )


def renamed(tensor: TensorProto, name: str, shape: Sequence[int] | None = None) -> TensorProto:
    """Return a tensor of the same bytes by another name, and of another shape if one is given."""
    copied = TensorProto()
    copied.CopyFrom(tensor)
    copied.name = name
    if shape is not None:
        del copied.dims[:]
        copied.dims.extend(shape)
    return copied


def place_of(tensor: TensorProto) -> dict[str, str]:
    """Return what a tensor outside of its graph states: `location`, `offset` and `length`."""
    return {entry.key: entry.value for entry in tensor.external_data}


def read_weight(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    """Return an initializer's values, mapped read-only where they lie outside the protobuf."""
    if tensor.data_location != TensorProto.EXTERNAL:
        inline: NDArray[Any] = numpy_helper.to_array(tensor)
        return inline
    place = place_of(tensor)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if 0 in shape:
        return np.empty(shape, dtype)
    offset = int(place.get("offset", 0))
    return np.memmap(folder / place["location"], dtype, "r", offset, shape)


def load_graph(path: Path) -> onnx.ModelProto:
    """Read a graph without the weights outside it."""
    return onnx.load(path, load_external_data=False)


def save_graph(
    model: onnx.ModelProto,
    source: Path,
    target: Path,
    file: str,
    *,
    optimized: bool = False,
    known: Known | None = None,
) -> GraphSpec:
    """Write a graph, its weights streamed from `source` to an aligned file beside `target`.

    Args:
        model: The graph; its initializers are replaced by those written.
        source: The folder that its external tensors are in.
        target: Where the graph goes.
        file: What the manifest calls it.
        optimized: That no session need optimize it further.
        known: See `WeightFile`.
    """
    weights = WeightFile(target.with_name(f"{target.name}_data"), known)
    try:
        for tensor in model.graph.initializer:
            array = read_weight(tensor, source)
            if array.nbytes >= INLINE_BYTES and array.dtype != object:
                tensor.CopyFrom(weights.add(tensor.name, array))
            elif tensor.data_location == TensorProto.EXTERNAL:
                tensor.CopyFrom(numpy_helper.from_array(np.array(array), tensor.name))
    finally:
        weights.close()
    onnx.save(model, target)
    return graph_spec(model, file, optimized=optimized)


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count the nodes of a graph by operator, most frequent first."""
    counts = Counter(node.op_type for node in model.graph.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a graph is written for."""
    return int(next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}))


def graph_spec(model: onnx.ModelProto, file: str, *, optimized: bool = False) -> GraphSpec:
    """Describe a graph for the manifest."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return GraphSpec(
        file=file,
        opset=opset_of(model),
        inputs=tuple(_spec(v) for v in model.graph.input if v.name not in initializers),
        outputs=tuple(_spec(v) for v in model.graph.output),
        operators=count_operators(model),
        optimized=optimized,
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    shape = tuple(d.dim_param or int(d.dim_value) for d in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)
