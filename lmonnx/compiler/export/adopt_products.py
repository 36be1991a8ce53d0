"""Products as the graphs built here have them, so that `lmonnx quantize` finds every one.

Gemm(x, W, b, transB=1)           = x·Wᵀ + b    with Wᵀ stored, and FusedGemm's activation of it
FusedMatMul(x, W, alpha=a, …)     = a · FusedMatMul(x, W, …)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmonnx.compiler.graph import read_weight

_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}
_KNOWN = frozenset({*_PLAIN, "transB", "activation"})
Attributes = Mapping[str, Any]


def split_products(graph: onnx.GraphProto, folder: Path) -> None:
    """Put a product, and what was done with it, in the place of every fusion of the two.

    Args:
        graph: Is edited; only products with a constant matrix are.
        folder: What its external weights are in.
    """
    stored = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    splitter = _Splitter(stored, folder)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        split = splitter.rule(node)
        nodes += split(node, _stated(node)) if split else [node]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(splitter.added.values())


def _stated(node: onnx.NodeProto) -> Attributes:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


@dataclass(slots=True)
class _Splitter:
    stored: Mapping[str, TensorProto]
    folder: Path
    added: dict[str, TensorProto] = field(default_factory=dict)

    def rule(
        self, node: onnx.NodeProto
    ) -> Callable[[onnx.NodeProto, Attributes], Iterator[onnx.NodeProto]] | None:
        """Return what splits a node, if anything does."""
        stated = _stated(node)
        if len(node.input) < 2 or node.input[1] not in self.stored:
            return None
        if node.op_type in {"Gemm", "FusedGemm"}:
            plain = all(stated.get(name, value) == value for name, value in _PLAIN.items())
            return self.gemm if plain and stated.keys() <= _KNOWN else None
        scaled = node.op_type == "FusedMatMul" and stated.get("alpha", 1.0) != 1.0
        return self.scaled if scaled else None

    def gemm(self, node: onnx.NodeProto, stated: Attributes) -> Iterator[onnx.NodeProto]:
        """Yield the product, the sum if there is a bias, and the activation if there is one."""
        weight = self._turned(node.input[1]) if stated.get("transB") else node.input[1]
        steps = [("MatMul", [weight])]
        if len(node.input) > 2 and node.input[2]:
            steps.append(("Add", [node.input[2]]))
        if "activation" in stated:
            steps.append((stated["activation"].decode(), []))
        value, name = node.input[0], _name(node)
        for number, (op_type, others) in enumerate(steps):
            last = number == len(steps) - 1
            made = node.output[0] if last else f"{name}/{op_type}_output"
            yield helper.make_node(op_type, [value, *others], [made], name=f"{name}/{op_type}")
            value = made

    def scaled(self, node: onnx.NodeProto, stated: Attributes) -> Iterator[onnx.NodeProto]:
        """Yield the product without its factor, and the factor."""
        name, alpha = _name(node), float(stated["alpha"])
        product = onnx.NodeProto.FromString(node.SerializeToString())
        factor = numpy_helper.from_array(np.array(alpha, np.float32), f"{name}/alpha")
        self.added[factor.name] = factor
        product.output[0] = f"{name}/product_output"
        if any(value for flag, value in stated.items() if flag != "alpha"):
            next(each for each in product.attribute if each.name == "alpha").f = 1.0
        else:
            product.op_type, product.domain = "MatMul", ""
            del product.attribute[:]
        yield product
        inputs = [product.output[0], factor.name]
        yield helper.make_node("Mul", inputs, [node.output[0]], name=f"{name}/Mul")

    def _turned(self, weight: str) -> str:
        name = f"{weight}_turned"
        if name not in self.added:
            array = np.ascontiguousarray(read_weight(self.stored[weight], self.folder).T)
            self.added[name] = numpy_helper.from_array(array, name)
        return name


def _name(node: onnx.NodeProto) -> str:
    """Return what a node is called; onnxruntime's fusion puts a word in front."""
    return str(node.name.removeprefix("fused ") or node.output[0])
