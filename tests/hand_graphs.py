"""Graphs made by hand, of no model in particular, with what flows into their layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from lmonnx.compiler.graph import MICROSOFT
from lmonnx.compiler.quantize.calibration import Seen
from lmonnx.compiler.quantize.graph_source import GraphSource
from lmonnx.compiler.quantize.layers import find_layers, load_direct
from lmonnx.compiler.quantize.moments import Moments
from tests.rounded import is_close

V, E, F = 80, 64, 96
IDS = np.random.default_rng(1).integers(0, E, (2, 40))


def constants() -> dict[str, np.ndarray]:
    """Draw what the nodes may read; gains are from -5 to 5."""
    random = np.random.default_rng(0)

    def gain(*shape: int) -> np.ndarray:
        drawn = np.exp(random.standard_normal(shape)) * random.choice([-1, 1], shape)
        return drawn.clip(-5, 5)

    floats = {
        "table": random.standard_normal((V, E)),
        "square": random.standard_normal((E, E)) / 8,
        "square2": random.standard_normal((E, E)) / 8,
        "square_table": random.standard_normal((E, E)),
        "wide": random.standard_normal((E, F)) / 8,
        "down": random.standard_normal((F, E)) / 10,
        "almost": random.standard_normal((F - 1, E)) / 10,
        "gate_up": random.standard_normal((E, 2 * F)) / 8,
        "gain": gain(E),
        "gain2": gain(E),
        "gains": gain(IDS.shape[1], E),
        "shift": random.standard_normal(E),
        "bias": random.standard_normal(E),
        "biases": random.standard_normal((1, V)),
        "two": np.array(2.0),
    }
    integers = {"sizes": [F, F], "halves": [1, 1], "one_and": [1, F - 1], "flat": [-1, E]}
    return {name: array.astype(np.float32) for name, array in floats.items()} | {
        name: np.array(values, np.int64) for name, values in integers.items()
    }


def node(
    op_type: str, inputs: str, output: str, domain: str = "", **attributes: Any
) -> onnx.NodeProto:
    """Return a node named by what it makes; names stand between spaces."""
    outputs = output.split()
    return helper.make_node(
        op_type,
        inputs.split(),
        outputs,
        name=f"{op_type}_{outputs[0]}",
        domain=domain,
        **attributes,
    )


def look_up(table: str = "table", output: str = "e") -> onnx.NodeProto:
    """Return the lookup of a table by the ids."""
    return node("Gather", f"{table} input_ids", output)


def norm(
    x: str = "e", output: str = "n", gain: str = "gain", shift: str = "shift", **attributes: Any
) -> onnx.NodeProto:
    """Return a LayerNormalization."""
    return node("LayerNormalization", f"{x} {gain} {shift}".strip(), output, **attributes)


def product(x: str = "n", weight: str = "square", output: str = "y") -> onnx.NodeProto:
    """Return x·W."""
    return node("MatMul", f"{x} {weight}", output)


def head(x: str = "n", weight: str = "table", output: str = "y") -> onnx.NodeProto:
    """Return x·Wᵀ."""
    return node("FusedMatMul", f"{x} {weight}", output, MICROSOFT, transB=1)


def gated(x: str, output: str, sizes: str = "sizes", **attributes: Any) -> list[onnx.NodeProto]:
    """Return the product, the split, and act(gate) · up."""
    parts = f"{output}_gate {output}_up"
    return [
        product(x, "gate_up", f"{output}_both"),
        node("Split", f"{output}_both {sizes}".strip(), parts, axis=-1, **attributes),
        node("Sigmoid", f"{output}_gate", f"{output}_act"),
        node("Mul", f"{output}_act {output}_up", output),
    ]


def branch(value: str) -> list[onnx.NodeProto]:
    """Return an If of which both branches read a value."""
    graphs = [
        helper.make_graph(
            [helper.make_node(op_type, [value], [f"{op_type}_output"])],
            op_type,
            [],
            [helper.make_tensor_value_info(f"{op_type}_output", TensorProto.FLOAT, None)],
        )
        for op_type in ("Identity", "Neg")
    ]
    yes = numpy_helper.from_array(np.array(True))
    return [
        helper.make_node("Constant", [], ["yes"], value=yes),
        helper.make_node("If", ["yes"], ["seen"], then_branch=graphs[0], else_branch=graphs[1]),
    ]


class Graph:
    """A graph in memory and on disk, with what flows into its layers."""

    def __init__(self, nodes: Sequence[onnx.NodeProto], folder: Path) -> None:
        held = {output for each in nodes for output in each.output}
        used = {name for each in nodes for name in each.input} | {
            name for each in nodes for a in each.attribute for n in a.g.node for name in n.input
        }
        self.ends = [name for name in ("y", "o", "seen") if name in held]
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self.ends]
        stored = [numpy_helper.from_array(a, n) for n, a in constants().items() if n in used]
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"])
        graph = helper.make_graph(nodes, "graph", [ids], infos, stored)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        self.path, self.made, self.rounded = (
            folder / f"{name}.onnx" for name in ("float", "made", "rounded")
        )
        onnx.save(self.model, self.path)
        self.model = load_direct(self.path)
        self.layers = find_layers(self.model)
        self.values = self._observe()

    def _observe(self) -> dict[str, np.ndarray]:
        watched, names = onnx.ModelProto(), {layer.value for layer in self.layers}
        watched.CopyFrom(self.model)
        for name in names - {"y", "o"}:
            info = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            watched.graph.output.append(info)
        session = ort.InferenceSession(watched.SerializeToString())
        found = session.run(list(names), {"input_ids": IDS})
        return {n: v.reshape(-1, v.shape[-1]) for n, v in zip(names, found, strict=True)}

    def seen(self) -> dict[str, Seen]:
        """Return what `write_int8` takes."""
        return {
            name: Seen(rows.mean(axis=0), np.abs(rows).max(axis=0), float(rows.min()))
            for name, rows in self.values.items()
        }

    def source(self) -> GraphSource:
        """Return what `recipe_of` takes."""
        moments = {
            name: Moments(
                (rows.T @ rows / len(rows)).astype(np.float32),
                np.abs(rows).max(axis=0),
                float(np.median(np.abs(rows).max(axis=1))),
                float(rows.min()),
                float(rows.max()),
            )
            for name, rows in self.values.items()
        }
        return GraphSource(self.path, self.model, self.layers, moments)

    def is_close(self, most: float) -> bool:
        """Say whether `made` answers as the float graph does, `rounded` being the bound."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        paths = (self.path, self.made, self.rounded)
        answers = [
            ort.InferenceSession(path, options).run(self.ends, {"input_ids": IDS}) for path in paths
        ]
        return all(
            is_close(wanted, made, rounded, most)
            for wanted, made, rounded in zip(*answers, strict=True)
            if not np.array_equal(wanted, made)
        )
