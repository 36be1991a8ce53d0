"""The command that fuses graphs: optimize."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from lmonnx.bundle.bundle import Bundle
from lmonnx.cli import options, render
from lmonnx.cli.command import Command, require_extra
from lmonnx.cli.made import figures_of, metrics_of


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  lmonnx optimize sst2 -o sst2-opt
""",
)
@options.bundle
@options.output
@options.force
def optimize(*, bundle: Path, output: Path, force: bool) -> None:
    """Fuse the graph of BUNDLE: the same answers from fewer nodes, and a faster load.

    Graphs of decoders and encoder-decoders are fused as they are exported: they are checked,
    counted, and taken over.
    """
    require_extra("optimize")
    from lmonnx.compiler.optimize import optimize as stage

    before = Bundle.open(bundle)
    made = stage(before, output, force=force)
    if before.manifest.generation is not None:
        _print_fused(made)
        return
    _print_fusions(made)
    for name, graph in made.manifest.graphs.items():
        _print_changes(before.manifest.graphs[name].operators, graph.operators)


def _print_fused(made: Bundle) -> None:
    """Say what is fused in graphs of decoders and encoder-decoders, which stay as they are."""
    render.figures({**figures_of(made), "graphs": "as they were: export writes them fused"})
    graphs = made.manifest.graphs
    render.heading("fused operators")
    rows = [
        (name, *(str(graph.operators.get(name, 0)) for graph in graphs.values()))
        for name in metrics_of(made)["fused"]
    ]
    render.table(("operator", *graphs), rows, right=tuple(graphs))


def _print_fusions(made: Bundle) -> None:
    metrics = metrics_of(made)
    nodes, fewer = metrics["nodes"]
    slow, fast = metrics["load_ms"]
    render.figures(
        {
            **figures_of(made),
            "nodes": f"{nodes} before, {fewer} after",
            "load": f"{slow:.0f} ms before, {fast:.0f} ms after",
            "fused": render.inline(metrics["fused"]),
        }
    )


def _print_changes(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    changed = sorted(
        operator
        for operator in before.keys() | after.keys()
        if before.get(operator, 0) != after.get(operator, 0)
    )
    render.heading("operators that changed")
    rows = [(name, str(before.get(name, 0)), str(after.get(name, 0))) for name in changed]
    render.table(("operator", "before", "after"), rows, right=("before", "after"))
