"""What a manifest says of a bundle's graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output; a string in `shape` is an axis free at run time."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """Where bytes begin in a file of the graph's folder."""

    file: str
    offset: int


@dataclass(frozen=True, slots=True)
class RowWeights:
    """An int8 matrix (K, N) of a graph that is in no file: loading makes it of another's blocks.

    round((q - zero) · scale · factor / step), q uint4 (N, blocks, block_size), scales and zeros a
    block, factors (K,), steps (N,). Without zeros 8 stands for 0, without factors they are 1.
    """

    name: str
    shape: tuple[int, ...]
    block_size: int
    blocks: Span
    scales: Span
    steps: Span
    zeros: Span | None = None
    factors: Span | None = None

    @property
    def files(self) -> set[str]:
        """Return the files that it is made of."""
        spans = (self.blocks, self.scales, self.steps, self.zeros, self.factors)
        return {span.file for span in spans if span is not None}


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One ONNX file: its interface and how many of each operator it holds."""

    file: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: Mapping[str, int]
    optimized: bool = False  # its fusions are done: the session need not look for them
    made: tuple[RowWeights, ...] | None = None  # weights that loading makes
