"""What an ONNX file says of weights outside it, read off the wire without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmonnx.bundle.wire import BYTES, read_fields, read_numbers
from lmonnx.errors import BundleError

# Field numbers of onnx.proto: model.graph, graph.node, graph.initializer, node.attribute,
# attribute.{g,graphs}, attribute.{t,tensors}, tensor.external_data, entry.{key,value}.
_MESSAGES = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {6: "graph", 11: "graph", 5: "tensor", 10: "tensor", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_FUNCTIONS = 25  # model.functions: the node field there is 7
_MAX_DEPTH = 32
# The same of tensor.{dims,data_type,name,data_location}; types and places as it numbers them.
_DIMS, _TYPE, _NAME, _PLACE = 1, 2, 8, 14
_OUTSIDE = 1
INT8 = 3


def external_locations(path: Path) -> set[str]:
    """Return every file that a graph's tensors point at, relative to the graph's folder.

    Raises:
        BundleError: The file is not a whole protobuf message.
    """
    data = memoryview(path.read_bytes())
    try:
        return set(_walk(data, "model", 0))
    except ValueError as error:
        raise BundleError(f"{path} is not a whole ONNX graph; export the bundle again") from error


def outside_constants(path: Path) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Return the type and the shape of each of a graph's own constants that lies outside it.

    Raises:
        BundleError: The file is not a whole protobuf message.
    """
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    try:
        for _, graph in _named(memoryview(path.read_bytes()), "model", "graph"):
            for _, tensor in _named(graph, "graph", "tensor"):
                name, kind, shape, is_outside = _constant(tensor)
                if is_outside:
                    found[name] = kind, shape
    except ValueError as error:
        raise BundleError(f"{path} is not a whole ONNX graph; export the bundle again") from error
    return found


def _constant(tensor: memoryview) -> tuple[str, int, tuple[int, ...], bool]:
    name, kind, place, shape = "", 0, 0, list[int]()
    for number, _, value in read_fields(tensor):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else read_numbers(value)
        elif number == _NAME and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == _TYPE and isinstance(value, int):
            kind = value
        elif number == _PLACE and isinstance(value, int):
            place = value
    return name, kind, tuple(shape), place == _OUTSIDE


def _named(data: memoryview, kind: str, wanted: str) -> Iterator[tuple[int, memoryview]]:
    inner = _MESSAGES[kind]
    return (pair for pair in _messages(data) if inner.get(pair[0]) == wanted)


def _walk(data: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    inner = _MESSAGES[kind]
    for number, value in _messages(data):
        if kind == "model" and number == _FUNCTIONS:
            raise ValueError("holds functions, which no stage writes")
        if number not in inner:
            continue
        if inner[number] == "entry":
            entry = dict(_messages(value))
            if bytes(entry.get(1, b"")) == b"location":
                yield bytes(entry.get(2, b"")).decode()
        else:
            yield from _walk(value, inner[number], depth + 1)


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (field number, bytes); a parser skips numbers in their place, and so must this."""
    for number, wire, value in read_fields(data):
        if wire == BYTES and isinstance(value, memoryview):
            yield number, value
