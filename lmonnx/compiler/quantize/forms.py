"""In which form each product of a graph is held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmonnx.compiler.quantize.folding import Factors
from lmonnx.compiler.quantize.moments import Moments
from lmonnx.compiler.quantize.rounding import Scale


@dataclass(frozen=True, slots=True)
class Form:
    """How a product is held: in blocks of `bits`, or with `block_size` 0 in int8 by rows.

    By rows a table that is looked up and never multiplied may have 8 bits, any other 7.
    """

    bits: int
    block_size: int


BY_ROWS = Form(8, 0)
SEVEN_BIT_TABLE = Form(7, 0)  # that another graph multiplies
CALIBRATED = (4,)  # bits; eight lose nothing that calibration could give back


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make of a decoder's graph.

    `forms` are by layer, or by the node that looks up a table of its own; what is not named stays
    as it is. `moments` are of what flows into layers: without a layer's its weights are rounded to
    the nearest. `factors` are what constants are multiplied by first; the moments are of values
    without them. `scales` are of values that are rounded to int8 with one scale for every row,
    known beforehand. One that `reuses` blocks takes those that another graph has of the same
    weights, and has what is by rows made of them when it is loaded.
    """

    forms: Mapping[str, Form]
    moments: Mapping[str, Moments] = field(default_factory=dict)
    factors: Factors = field(default_factory=Factors)
    scales: Mapping[str, Scale] = field(default_factory=dict)
    reuses: bool = False
