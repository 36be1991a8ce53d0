"""What the commands that write bundles tell of one that was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.cli import render


def figures_of(made: Bundle) -> dict[str, str]:
    """Return where a bundle is, its size, and what its graphs are made of."""
    graphs = made.manifest.graphs.values()
    nodes = sum(sum(graph.operators.values()) for graph in graphs)
    kinds = len({operator for graph in graphs for operator in graph.operators})
    return {
        "bundle": str(made.path),
        "size": render.size(made.bytes),
        "operators": f"{nodes} nodes of {kinds} kinds",
    }


def metrics_of(made: Bundle) -> Mapping[str, Any]:
    """Return what its last step measured."""
    return made.manifest.history[-1].metrics or {}
