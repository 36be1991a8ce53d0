"""Float graphs whose weights and activations are rounded: what integers may lose, and no more.

Nothing is folded, shared, calibrated or merged here, so a form that loses clearly more than its
rounding alone is wrong somewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lmonnx.compiler.quantize.blocks import quantize_blocks
from lmonnx.compiler.quantize.forms import BY_ROWS, Form
from lmonnx.compiler.quantize.layers import (
    Layer,
    find_layers,
    is_lookup,
    load_direct,
    node_name,
)
from lmonnx.compiler.quantize.weights import EIGHT_BITS, SEVEN_BITS, quantize_columns

_SCALARS = {"step": 1 / 127, "tiny": 1e-30}


def uneven(arrays: dict[str, np.ndarray], *, shifted: bool = False, least: float = 0.2) -> None:
    """Give every norm gains from `least` to its inverse, of both signs: channels must matter.

    Args:
        arrays: A checkpoint's tensors, which are edited.
        shifted: That a norm multiplies by 1 + its weight.
        least: The smallest gain.
    """
    for name, array in arrays.items():
        if array.ndim == 1 and name.endswith("weight"):
            random = np.random.default_rng(zlib.crc32(name.encode()))
            drawn = np.exp(0.8 * random.standard_normal(array.shape)).clip(least, 1 / least)
            drawn *= random.choice([-1, 1], array.shape)
            array[...] = drawn - 1 if shifted else drawn


def is_close(wanted: np.ndarray, made: np.ndarray, rounded: np.ndarray, most: float) -> bool:
    """Say whether outputs are as close to those of the float graph as rounding alone lets them be.

    The median counts, and not the mean: a few outputs hang on near-ties of attention.

    Args:
        wanted: The float graph's.
        made: Those of the integers.
        rounded: Those of the graph with rounded weights and activations.
        most: How many times the latter's errors there may be; of what they lack to a correlation
            of 1 twice as much.
    """
    errors = [float(np.median(np.abs(each - wanted))) for each in (made, rounded)]
    lost = [1 - np.corrcoef(wanted.ravel(), each.ravel())[0, 1] for each in (made, rounded)]
    return errors[0] <= most * errors[1] and bool(lost[0] <= 2 * lost[1] + 1e-3)


def write_rounded(
    source: Path,
    target: Path,
    forms: Mapping[str, Form] | None = None,
    *,
    whole: bool = False,
) -> None:
    """Write a float graph of which layers and tables are rounded in place.

    Args:
        source: The float graph.
        target: Where the rounded one goes, with its weights inside.
        forms: By layer, or by the node that looks up a table; None rounds all by rows.
        whole: That a value by rows has one scale for all of them.
    """
    model = load_direct(source)
    onnx.load_external_data_for_model(model, str(source.parent))
    _Rounded(model, forms, whole).rewrite()
    onnx.save(model, target)


@dataclass
class _Rounded:
    model: onnx.ModelProto
    forms: Mapping[str, Form] | None
    whole: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[tuple[str, int], str] = field(default_factory=dict)

    def rewrite(self) -> None:
        graph = self.model.graph
        self.stored = {t.name: t for t in graph.initializer}
        self.layers = {layer.name: layer for layer in find_layers(self.model)}
        self.tied = {layer.weight: layer for layer in self.layers.values() if layer.rows}
        for node in list(graph.node):
            name = node_name(node)
            if name in self.layers and (form := self._form(name)):
                self._layer(node, self.layers[name], form)
            elif is_lookup(node) and node.input[0] in self.stored:
                self._lookup(node)
            self.nodes.append(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:]
        graph.node.extend(copies)
        graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in self.added.items())

    def _form(self, name: str) -> Form | None:
        return BY_ROWS if self.forms is None else self.forms.get(name)

    def _layer(self, node: onnx.NodeProto, layer: Layer, form: Form) -> None:
        stored = numpy_helper.to_array(self.stored[layer.weight])
        by_outputs = stored if layer.rows else stored.T  # (N, K)
        rounded = _matrix(by_outputs, form, SEVEN_BITS)
        node.input[0] = self._value(layer.value, form, by_outputs.shape[1])
        node.input[1] = self._store(
            f"{layer.weight}/rounded/{layer.rows}", rounded if layer.rows else rounded.T
        )

    def _lookup(self, node: onnx.NodeProto) -> None:
        table = node.input[0]
        tied = self.tied.get(table)
        form = self._form(tied.name if tied else node_name(node))
        if form is not None:
            limit = EIGHT_BITS if form == BY_ROWS and not tied else SEVEN_BITS
            rounded = _matrix(numpy_helper.to_array(self.stored[table]), form, limit)
            node.input[0] = self._store(f"{table}/looked_up", rounded)

    def _value(self, x: str, form: Form, width: int) -> str:
        """Return a value as it is rounded: a scale a row, a block of it, or for the whole."""
        size = form.block_size if form.block_size and width % form.block_size == 0 else 0
        if (x, size) not in self.values:
            name = f"{x}/rounded/{size}"
            if size:
                shape = self._store(f"shape/{size}", np.array([-1, size], np.int64))
                blocks = self._row(self._op("Reshape", [x, shape], f"{name}/in"), name)
                own = self._op("Shape", [x], f"{name}/shape")
                self.values[x, size] = self._op("Reshape", [blocks, own], f"{name}/out")
            else:
                self.values[x, size] = self._whole(x, name) if self.whole else self._row(x, name)
        return self.values[x, size]

    def _row(self, x: str, name: str) -> str:
        for scalar, value in _SCALARS.items():
            self._store(scalar, np.array(value, np.float32))
        magnitude = self._op("Abs", [x], f"{name}/Abs")
        opset = max(o.version for o in self.model.opset_import if o.domain in {"", "ai.onnx"})
        if opset < 18:
            largest = self._op("ReduceMax", [magnitude], f"{name}/Max", axes=[-1])
        else:
            axes = self._store("axes", np.array([-1], np.int64))
            largest = self._op("ReduceMax", [magnitude, axes], f"{name}/Max")
        step = self._op("Mul", [largest, "step"], f"{name}/Mul")
        scale = self._op("Max", [step, "tiny"], f"{name}/scale")
        steps = self._op("Div", [x, scale], f"{name}/Div")
        rounded = self._op("Round", [steps], f"{name}/Round")
        return self._op("Mul", [rounded, scale], f"{name}/Mul_back")

    def _whole(self, x: str, name: str) -> str:
        parts = [f"{name}/{part}" for part in ("uint8", "scale", "zero")]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts))
        return self._op("DequantizeLinear", parts, f"{name}/Dequantize")

    def _op(self, op_type: str, inputs: list[str], name: str, **kw: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **kw))
        return name

    def _store(self, name: str, array: np.ndarray) -> str:
        self.added[name] = np.ascontiguousarray(array)
        return name


def _matrix(stored: np.ndarray, form: Form, limit: int) -> np.ndarray:
    """Return a matrix (N, K) as integers would hold it."""
    if form.block_size:
        made = quantize_blocks(stored, bits=form.bits, block_size=form.block_size)
        return made.matrix(stored.shape[1])
    integers, scales = quantize_columns(np.ascontiguousarray(stored.T), limit)
    return np.asarray((integers * scales).T, np.float32)
