"""Rows that are decoded together → the lane for their kind."""

from __future__ import annotations

from lmonnx.runtime.generate.beam_lane import BeamLane
from lmonnx.runtime.generate.lane import Lane
from lmonnx.runtime.generate.single_lane import SingleLane
from lmonnx.runtime.generate.source_job import Kind


def make_lane(kind: Kind, vocabulary: int) -> Lane:
    """Return an empty lane for jobs of a kind."""
    return (SingleLane if kind.beams == 1 else BeamLane)(kind, vocabulary)
