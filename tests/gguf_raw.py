"""GGUF files spelled by hand, to be damaged or to hold blocks that no writer makes."""

from __future__ import annotations

import struct


def string(text: str | bytes) -> bytes:
    """Spell a string: its length and bytes."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def raw_key(name: str | bytes, kind: int, value: bytes) -> bytes:
    """Spell a key and its value."""
    return string(name) + struct.pack("<I", kind) + value


def raw_tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    """Spell a tensor's entry; `dims` fastest first, as in the file."""
    return (
        string(name)
        + struct.pack("<I", len(dims))
        + b"".join(struct.pack("<Q", dim) for dim in dims)
        + struct.pack("<IQ", kind, offset)
    )


def raw_file(
    keys: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    *,
    version: int = 3,
    magic: bytes = b"GGUF",
    counts: tuple[int, int] | None = None,
) -> bytes:
    """Spell a file; `counts` are of tensors and keys, where they are to be lies."""
    stated = counts or (len(tensors), len(keys))
    head = magic + struct.pack("<IQQ", version, *stated) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data
