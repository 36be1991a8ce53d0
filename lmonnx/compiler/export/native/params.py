"""A checkpoint's tensors under the names that a family file uses, each held to its shape."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.checkpoint.weights import Weights
from lmonnx.errors import StageError

# Checkpoints converted from TensorFlow before 2019 keep its names.
_OLD_NAMES = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Params:
    """Read tensors by name.

    `prefix` is what the base model's names start with, if they do; `base` is what a family file's
    names start with and the base model's own may not.
    """

    def __init__(self, weights: Weights, prefix: str, task: str = "", *, base: str = "") -> None:
        self._weights = weights
        self._names = frozenset(weights.names())
        self._prefix = prefix
        self._base = base
        self._task = task
        self._read: set[str] = set()

    def of_head(self, task: str) -> Params:
        """Return the same tensors; where one is missing there is no head for `task`."""
        head = Params(self._weights, self._prefix, task, base=self._base)
        head._read = self._read
        return head

    def read(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return one tensor in float32.

        Raises:
            StageError: It is missing, of another shape, or holds NaN or infinity.
        """
        found = self._find(name)
        self._read.add(found)
        if (actual := tuple(self._weights.shape(found))) != shape:
            raise StageError(
                f"{found} has the shape {actual}, config.json asks for {shape}; "
                "the weights and the config are not of one model"
            )
        array = self._weights.read(found).astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise StageError(f"{found} holds NaN or infinity; the checkpoint is damaged")
        return array

    def has(self, name: str) -> bool:
        """Say whether there is a tensor of this name."""
        return not self._names.isdisjoint(self._spellings(name))

    def read_first(self, names: Sequence[str], *shape: int) -> NDArray[np.float32]:
        """Return the first of `names` that there is, or fail as for the first."""
        present = (name for name in names if name in self._names)
        return self.read(next(present, names[0]), *shape)

    def transposed(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return torch's (out, in) matrix as the (in, out) one that MatMul takes."""
        return np.ascontiguousarray(self.read(name, *shape).T)

    def finish(self) -> None:
        """Refuse layers that config.json does not count; other tensors may stay unread.

        Raises:
            StageError: There is a tensor like those that were read, of a later layer.
        """
        last: dict[str, int] = {}
        for name in self._read:
            for kind, number in _numbered(name):
                last[kind] = max(number, last.get(kind, 0))
        over = [
            name
            for name in self._weights.names()
            if name not in self._read
            and any(number > last.get(kind, number) for kind, number in _numbered(name))
        ]
        if over:
            more = f" and {len(over) - 1} more tensors" if len(over) > 1 else ""
            raise StageError(
                f"{over[0]}{more} belong to layers that config.json does not count; the weights "
                "and the config are not of one model"
            )

    def _spellings(self, name: str) -> tuple[str, ...]:
        old = name
        for new_end, old_end in _OLD_NAMES.items():
            old = old.removesuffix(new_end) + old_end if old.endswith(new_end) else old
        short = name.removeprefix(self._base)
        return self._prefix + name, name, self._prefix + old, old, short

    def _find(self, name: str) -> str:
        for candidate in self._spellings(name):
            if candidate in self._names:
                return candidate
        if not self._task:
            self._weights.shape(self._prefix + name)  # raises, naming its nearest neighbours
        raise StageError(
            f"the checkpoint has no tensor {name}, so it has no head for {self._task}; take one "
            "that was fine-tuned for it, or this one's encoder alone by --task feature-extraction"
        )


def _numbered(name: str) -> Iterator[tuple[str, int]]:
    """Yield a name without each of its numbers in turn, and that number."""
    for match in _NUMBER.finditer(name):
        yield f"{name[: match.start()]}#{name[match.end() :]}", int(match[0])
