"""Where an ONNX file says that its weights lie, read off the wire without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

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


def external_locations(path: Path) -> set[str]:
    """Return every file that a graph's tensors point at, relative to the graph's folder.

    Raises:
        BundleError: The file is not a whole protobuf message.
    """
    data = memoryview(path.read_bytes())
    try:
        return set(_walk(data, "model", 0))
    except (IndexError, ValueError) as error:
        raise BundleError(f"{path} is not a whole ONNX graph; export the bundle again") from error


def _walk(data: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    inner = _MESSAGES[kind]
    for number, value in _fields(data):
        if kind == "model" and number == _FUNCTIONS:
            raise ValueError("holds functions, which no stage writes")
        if value is None or number not in inner:
            continue
        if inner[number] == "entry":
            # A parser skips a key or value of another wire type, and so must this.
            entry = {at: text for at, text in _fields(value) if text is not None}
            if bytes(entry.get(1, b"")) == b"location":
                yield bytes(entry.get(2, b"")).decode()
        else:
            yield from _walk(value, inner[number], depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Yield (field number, bytes) of one message; the bytes are None for numbers."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(data, at)
            yield key >> 3, None
        elif wire in {1, 5}:
            at += 8 if wire == 1 else 4
            yield key >> 3, None
        elif wire == 2:
            size, at = _varint(data, at)
            yield key >> 3, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")
    if at != end:
        raise ValueError("cut short")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("number too long")
