"""GGUF metadata, read so that no key that changes the computation is passed over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from lmonnx.compiler.checkpoint.gguf_header import GgufHeader
from lmonnx.errors import StageError, UnsupportedError

MOST = 2**32 - 1
_REQUIRED: Any = object()


class Fields:
    """The keys of one architecture, or of the tokenizer; `finish` refuses those nobody asked for.

    Args:
        header: The file's.
        prefix: What stands before each key, such as "llama".
    """

    def __init__(self, header: GgufHeader, prefix: str) -> None:
        self.path = header.path
        self._metadata: Mapping[str, Any] = header.metadata
        self._prefix = prefix
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        """Return whether the key is there."""
        return f"{self._prefix}.{name}" in self._metadata

    def integer(
        self, name: str, default: Any = _REQUIRED, *, least: int = 1, most: int = MOST
    ) -> int:
        """Return a whole number; an array of equal ones, a layer each, is that one.

        Raises:
            StageError: It is missing, without a default, or no such number.
            UnsupportedError: It differs between layers.
        """
        value = self._get(name, default)
        if isinstance(value, np.ndarray):
            if len(set(value.tolist())) > 1:
                raise UnsupportedError(
                    f"{self.path}: {self._prefix}.{name} differs between layers, which no"
                    " architecture here does"
                )
            value = value.tolist()[0] if value.size else None
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(name, value, f"a whole number of {least} to {most}")
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """Return a finite number.

        Raises:
            StageError: It is missing, without a default, or no such number.
        """
        value = self._get(name, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self._wrong(name, value, "a number")
        return float(value)

    def positive(self, name: str, default: Any = _REQUIRED) -> float:
        """Return a number above 0; StageError if it is missing, without a default, or none."""
        value = self.number(name, default)
        if value <= 0:
            raise self._wrong(name, value, "a number above 0")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a truth value; StageError if it is something else."""
        value = self._get(name, default)
        if type(value) is not bool:
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """Return a string; StageError if it is missing, without a default, or something else."""
        value = self._get(name, default)
        if type(value) is not str:
            raise self._wrong(name, value, "text")
        return value

    def strings(self, name: str) -> list[str]:
        """Return an array of strings; StageError if it is missing or something else."""
        value = self._get(name, _REQUIRED)
        if not isinstance(value, list):
            raise self._wrong(name, value, "an array of strings")
        return value

    def numbers(self, name: str) -> list[float]:
        """Return an array of numbers; StageError if it is missing or something else."""
        value = self._get(name, _REQUIRED)
        if not isinstance(value, np.ndarray):
            raise self._wrong(name, value, "an array of numbers")
        return list(value.tolist())

    def only(self, name: str, *, value: Any) -> None:
        """Ask that a key is not there or says `value`.

        Raises:
            UnsupportedError: It says something else.
        """
        stated = self._get(name, value)
        if isinstance(stated, np.ndarray) or stated != value:
            raise UnsupportedError(
                f"{self.path}: {self._prefix}.{name} is {stated!r:.60}, and only {value!r} is"
                " supported"
            )

    def finish(self, inert: Set[str]) -> None:
        """Refuse every key that was not asked for and is not in `inert`.

        Raises:
            UnsupportedError: There is one.
        """
        known = {f"{self._prefix}.{name}" for name in inert | self._asked}
        for key in self._metadata:
            if key.startswith(f"{self._prefix}.") and key not in known:
                raise UnsupportedError(
                    f"{self.path}: the key {key} is not known here and may change what the model"
                    " computes; export the original checkpoint instead"
                )

    def _get(self, name: str, default: Any) -> Any:
        self._asked.add(name)
        value = self._metadata.get(f"{self._prefix}.{name}", default)
        if value is _REQUIRED:
            raise StageError(
                f"{self.path} lacks the key {self._prefix}.{name}; convert the model again with a"
                " current llama.cpp"
            )
        return value

    def _wrong(self, name: str, value: Any, wanted: str) -> StageError:
        return StageError(
            f"{self.path}: {self._prefix}.{name} is {value!r:.60}, must be {wanted}; the file is"
            " damaged"
        )
