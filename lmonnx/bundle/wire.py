"""The fields of a protobuf message, read off the wire without a protobuf package."""

from __future__ import annotations

from collections.abc import Iterator

# Wire types. The value of a VARINT is an integer; of the others, the bytes that it is written in.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}


def read_fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield (field number, wire type, value) of one message, in the order written.

    Raises:
        ValueError: `data` is not a whole message.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == BYTES:
            size, at = _varint(data, at)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise ValueError(f"wire type {wire}")
        if size > end - at:
            raise ValueError("cut short")
        yield number, wire, data[at : at + size]
        at += size


def read_numbers(data: memoryview) -> Iterator[int]:
    """Yield the integers that one field of bytes holds, written one behind the other.

    Raises:
        ValueError: The last one is not whole.
    """
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("number too long")
    raise ValueError("cut short")
