"""A folder with weights → a lazy collection of tensors, each read when asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lmonnx.compiler.checkpoint.json_object import read_object
from lmonnx.compiler.checkpoint.safetensors_file import safetensors_tensors
from lmonnx.compiler.checkpoint.stored import StoredTensor
from lmonnx.compiler.checkpoint.torch_file import torch_tensors
from lmonnx.errors import StageError

Reader = Callable[[Path], dict[str, StoredTensor]]

# In the order they are looked for, which is transformers'.
SOURCES: dict[str, Reader] = {
    "model.safetensors": safetensors_tensors,
    "model.safetensors.index.json": safetensors_tensors,
    "pytorch_model.bin": torch_tensors,
    "pytorch_model.bin.index.json": torch_tensors,
}


class Tensor(Protocol):
    """A tensor whose numbers are read when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return its shape, slowest dimension first."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Return the type it is stored in."""

    def read(self) -> npt.NDArray[Any]:
        """Return a new array: float32 for every float type."""


class Weights:
    """Give the tensors of a checkpoint by name; one read touches one tensor, nothing is kept.

    Safe to read from several threads: every read opens the file anew.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def names(self) -> Set[str]:
        """Return every tensor's name, in the file's order."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it; StageError if there is none."""
        return self._find(name).shape

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type a tensor is stored in, which `read` may widen or narrow to float32."""
        return self._find(name).dtype

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a new array: float32 for every float type, integers and booleans as stored.

        Raises:
            StageError: There is no such tensor (the error names the nearest), or its file has
                changed since it was opened.
        """
        return self._find(name).read()

    def _find(self, name: str) -> Tensor:
        if name in self._tensors:
            return self._tensors[name]
        near = difflib.get_close_matches(name, self._tensors, n=3)
        hint = f"the nearest are {', '.join(near)}" if near else f"it has {len(self)} others"
        raise StageError(f"the checkpoint has no tensor {name}; {hint}")


def open_weights(folder: Path) -> Weights:
    """Return the tensors of a folder: safetensors before pytorch_model.bin, one file before shards.

    Raises:
        StageError: There are no weights, a file is damaged, or an index and its shards disagree.
    """
    for name, reader in SOURCES.items():
        if (folder / name).is_file():
            if name.endswith(".index.json"):
                return Weights(_sharded(folder / name, reader))
            return Weights(reader(folder / name))
    raise StageError(
        f"{folder} has none of {', '.join(SOURCES)}; a checkpoint of TensorFlow or JAX must be"
        " saved as safetensors first"
    )


def _sharded(index: Path, reader: Reader) -> dict[str, StoredTensor]:
    places = _weight_map(index)
    shards = {shard: _open_shard(index, shard, reader) for shard in sorted(set(places.values()))}
    lost = [name for name, shard in places.items() if name not in shards[shard]]
    if lost:
        raise StageError(
            f"{index} puts {lost[0]!r:.100} in {places[lost[0]]}, which lacks it; download it again"
        )
    return {name: shards[shard][name] for name, shard in places.items()}


def _weight_map(index: Path) -> dict[str, str]:
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise StageError(f"{index} has no weight_map of tensor names to files")
    for shard in places.values():
        # An index is downloaded text: it may name files of its own folder and no others.
        if not isinstance(shard, str) or set(shard) & set("/\\:\0") or shard in ("", ".", ".."):
            raise StageError(f"{index} names the file {shard!r:.100}, which is no plain file name")
    return places


def _open_shard(index: Path, shard: str, reader: Reader) -> dict[str, StoredTensor]:
    path = index.parent / shard
    if not path.is_file():
        raise StageError(f"{path} is missing, and {index.name} names it; download the rest")
    return reader(path)
