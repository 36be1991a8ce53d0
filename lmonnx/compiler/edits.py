"""Edits of a graph: names of values, dead nodes, the graphs inside nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx


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
    replace_all(graph.node, kept[::-1])
    replace_all(graph.initializer, [t for t in graph.initializer if t.name in wanted])


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


def replace_all(field: object, items: Iterable[object]) -> None:
    """Put other items into a repeated field of a protobuf."""
    copies = list(items)
    kept = [type(item)() for item in copies]
    for copy, item in zip(kept, copies, strict=True):
        copy.CopyFrom(item)  # type: ignore[attr-defined]
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]
