"""Edits of a decoder's graph as it is found: the branch that reads a past, names, dead nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx

from lmonnx.errors import UnsupportedError

BRANCH_INPUT = "use_cache_branch"


def take_branch(model: onnx.ModelProto, where: str, *, cached: bool = True) -> None:
    """Put the branch with a past, or that without, in the place of a merged graph's If.

    optimum's decoder_model_merged.onnx has a graph of the prompt and one of what follows it; the
    second does both, with a past of no tokens. A graph without the two is left as it is.

    Raises:
        UnsupportedError: The input that chooses the branch chooses no single If.
    """
    graph = model.graph
    chosen = [node for node in graph.node if BRANCH_INPUT in node.input]
    if all(value.name != BRANCH_INPUT for value in graph.input):
        return
    if len(chosen) != 1 or chosen[0].op_type != "If":
        raise UnsupportedError(
            f"{where}: {BRANCH_INPUT} is read by {len(chosen)} nodes that are not one If; export "
            "the model from its checkpoint"
        )
    name = "then_branch" if cached else "else_branch"
    branch = next(each.g for each in chosen[0].attribute if each.name == name)
    renamed = dict(zip((each.name for each in branch.output), chosen[0].output, strict=True))
    rename_values(branch.node, renamed)
    nodes = [each for node in graph.node for each in (branch.node if node is chosen[0] else [node])]
    made = {name for node in nodes for name in node.output}
    for inner, outer in renamed.items():
        if outer not in made:
            nodes.append(onnx.helper.make_node("Identity", [inner], [outer], name=f"/{outer}"))
    graph.initializer.extend(branch.initializer)
    _replace(graph.node, nodes)
    _replace(graph.input, [value for value in graph.input if value.name != BRANCH_INPUT])


def rename_values(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Call values otherwise wherever nodes, or the graphs inside them, make or read them."""
    for node in nodes:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, name)
        for graph in subgraphs([node]):
            rename_values(graph.node, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)


def drop_dead(graph: onnx.GraphProto) -> None:
    """Drop the nodes and constants that no output depends on."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(read_values(node))
            kept.append(node)
    _replace(graph.node, kept[::-1])
    _replace(graph.initializer, [t for t in graph.initializer if t.name in wanted])


def read_values(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of what a node reads, also from within the graphs inside it."""
    yield from node.input
    for graph in subgraphs([node]):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from read_values(inner)


def constant_values(graph: onnx.GraphProto) -> set[str]:
    """Return the names of what depends on constants alone."""
    known = {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        if known.issuperset(read_values(node)):
            known.update(node.output)
    return known


def subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that are attributes of nodes."""
    for attribute in (each for node in nodes for each in node.attribute):
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _replace(field: object, items: Iterable[object]) -> None:
    """Put other items into a repeated field of a protobuf."""
    copies = list(items)
    kept = [type(item)() for item in copies]
    for copy, item in zip(kept, copies, strict=True):
        copy.CopyFrom(item)  # type: ignore[attr-defined]
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
