"""Frozen dataclasses ↔ JSON, strictly: every field is known, present and of its declared type."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Return `value` as JSON types; fields equal to their default None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: encode(item) for name, item in pairs if item is not None}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def decode(cls: type[T], value: Any, where: str) -> T:
    """Return `value`, read from JSON, as an instance of `cls`.

    Args:
        cls: The dataclass to make.
        value: What the JSON parser gave.
        where: The field's path, for the error.

    Raises:
        ValueError: A field is missing, unknown or of another type; the message names it.
    """
    made: T = _decode(cls, value, where)
    return made


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any or (kind is float and type(value) is int):
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, types.UnionType}:
        return _decode_union(args, value, where)
    if origin is tuple:
        _expect(value, list, where)
        return tuple(_decode(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        _expect(value, dict, where)
        return {key: _decode(args[1], v, f"{where}[{key!r:.60}]") for key, v in value.items()}
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    if issubclass(kind, Enum):
        return _decode_enum(kind, value, where)
    _expect(value, kind, where)
    return value


def _decode_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in args:
        return None
    kinds = [kind for kind in args if kind is not types.NoneType]
    for kind in kinds:
        if type(value) is kind:
            return value
    if len(kinds) == 1:
        return _decode(kinds[0], value, where)
    raise ValueError(f"{where} is {_name(value)}, must be {' or '.join(k.__name__ for k in kinds)}")


def _decode_dataclass(cls: Any, value: Any, where: str) -> Any:
    _expect(value, dict, where)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f"{where} has the unknown field {unknown[0]!r:.60}")
    required = (
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )
    if missing := [name for name in required if name not in value]:
        raise ValueError(f"{where} lacks the field {missing[0]!r}")
    return cls(**{key: _decode(hints[key], v, f"{where}.{key}") for key, v in value.items()})


def _decode_enum(kind: Any, value: Any, where: str) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(str(member.value) for member in kind)
        raise ValueError(f"{where} is {value!r:.60}, must be one of {known}") from error


def _expect(value: Any, kind: type, where: str) -> None:
    # bool is a subclass of int in Python, but not in JSON
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} is {_name(value)}, must be {kind.__name__}")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where} is a number of more than 64 bits")


def _name(value: Any) -> str:
    return "null" if value is None else type(value).__name__
