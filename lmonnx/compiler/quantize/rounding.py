"""Activations → uint8 with scales, in operators of the graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from lmonnx.compiler.quantize.activations import LOWEST
from lmonnx.compiler.quantize.writer import GraphWriter

MIDDLE, STEPS = 128, 255  # of uint8
_AXES_ARE_INPUTS = 18  # the opset from which ReduceMax takes its axes as an input


@dataclass(frozen=True, slots=True)
class Scale:
    """How a value becomes uint8: x ≈ (u - zero) · step."""

    step: float
    zero: int = MIDDLE

    @classmethod
    def over(cls, least: float, most: float) -> Scale:
        """Return the scale whose steps reach from the least number, or 0, to the largest."""
        low, high = min(least, 0.0), max(most, 0.0)
        step = (high - low) / STEPS or 1.0
        return cls(step, min(STEPS, max(0, round(-low / step))))


@dataclass(slots=True)
class Rounding(GraphWriter):
    """Writes how a value is rounded, once for all its readers.

    `factors` are what the channels of some values are divided by first; the values `one_sided` have
    next to nothing below 0.
    """

    activations: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    factors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    one_sided: set[str] = field(default_factory=set)

    def rows(self, x: str) -> tuple[str, str, str]:
        """Return uint8 rows, their scales, the zero point; once for all readers of x.

        scale = max|x| / 127, x ≈ (u - 128) · scale; of one side, scale = max(x + LOWEST) / 255,
        x + LOWEST ≈ u · scale. A row of zeros has the scale 0, so that 0 / 0 may be rounded to any
        byte: times the scale it is 0 again.
        """
        if x not in self.activations:
            name, value, sided = f"{x}/rows", x, x in self.one_sided
            if x in self.factors:
                inverse = self.store(f"{name}/factors", 1 / self.factors[x])
                value = self.op("Mul", [x, inverse], f"{name}/Smooth")
            if sided:
                value = magnitude = self.op("Add", [x, self.scalar("lowest")], f"{name}/Lift")
            else:
                magnitude = self.op("Abs", [value], f"{name}/Abs")
            largest = self._reduce_max(magnitude, f"{name}/ReduceMax")
            step = self.scalar("step_of_all" if sided else "step")
            scale = self.op("Mul", [largest, step], f"{name}/Scale")
            ratio = self.op("Div", [value, scale], f"{name}/Div")
            zero = self.scalar("zero" if sided else "zero_point")
            u = self.op("QuantizeLinear", [ratio, self.scalar("one"), zero], f"{name}/uint8")
            self.activations[x] = (u, scale, zero)
        return self.activations[x]

    def fixed(self, x: str, known: Scale) -> tuple[str, str, str]:
        """Return uint8 values with a scale known beforehand, and the zero point; once for all.

        x ≈ (u - zero) · scale; what is beyond 0 … 255 is cut off.
        """
        if x not in self.activations:
            step = self.store(f"{x}/scale", np.array(known.step, np.float32))
            zero = self.store(f"int8/zero_{known.zero}", np.array(known.zero, np.uint8))
            u = self.op("QuantizeLinear", [x, step, zero], f"{x}/uint8")
            self.activations[x] = (u, step, zero)
        return self.activations[x]

    def whole(self, x: str) -> tuple[str, str, str]:
        """Return the tensor in uint8 with its one scale and zero point; once for all readers."""
        if x not in self.activations:
            name = f"{x}/whole"
            results = (f"{name}/uint8", f"{name}/scale", f"{name}/zero_point")
            self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], results, name=name))
            self.activations[x] = results
        return self.activations[x]

    def _reduce_max(self, x: str, name: str) -> str:
        opset = max(o.version for o in self.model.opset_import if o.domain in {"", "ai.onnx"})
        if opset < _AXES_ARE_INPUTS:
            return self.op("ReduceMax", [x], name, axes=[-1], keepdims=1)
        axes = self.store("int8/last_axis", np.array([-1], np.int64))
        return self.op("ReduceMax", [x, axes], name, keepdims=1)

    def scalar(self, name: str) -> str:
        """Return one of the constants that rounding takes."""
        return self.store(f"int8/{name}", _SCALARS[name])


_SCALARS: dict[str, NDArray[Any]] = {
    "one": np.array(1, np.float32),
    "step": np.array(1 / 127, np.float32),
    "zero_point": np.array(128, np.uint8),
    "lowest": np.array(LOWEST, np.float32),
    "step_of_all": np.array(1 / 255, np.float32),
    "zero": np.array(0, np.uint8),
}
