"""Bytes or a file → one JSON object, or a StageError that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmonnx.errors import StageError

MAX_BYTES = 64 * 2**20  # the largest tokenizer.json on the hub is about half of this


def read_object(path: Path) -> dict[str, Any]:
    """Return the object a file holds; a file above `MAX_BYTES` is refused unread.

    Raises:
        StageError: The file is too large, not UTF-8 JSON, or not an object.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise StageError(
            f"{path} is {size / 2**20:.0f} MiB of JSON, above the {MAX_BYTES // 2**20} MiB that are"
            " read; it is no configuration file"
        )
    return parse_object(path.read_bytes(), str(path))


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Return the object that `data` spells; `name` is what an error calls it.

    Raises:
        StageError: `data` is not UTF-8 JSON, is nested too deep, or is not an object.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise StageError(
            f"{name} is not JSON ({str(error) or type(error).__name__}); download it again"
        ) from error
    if not isinstance(value, dict):
        raise StageError(f"{name} holds a JSON {type(value).__name__}, not an object")
    return value
