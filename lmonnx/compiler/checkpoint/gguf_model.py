"""A GGUF file's keys and tensors together: what tells more than either alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmonnx.compiler.checkpoint.gguf_fields import Fields
from lmonnx.compiler.checkpoint.gguf_rope import llama3_scaling, stated_scaling
from lmonnx.compiler.checkpoint.weights import Tensor
from lmonnx.errors import StageError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Source:
    """What a family's function reads: the keys of its architecture and the tensors by GGUF name."""

    fields: Fields
    tensors: Mapping[str, Tensor]

    def rows(self, name: str) -> int:
        """Return how many rows a tensor has; StageError if it is not there or no matrix."""
        if name not in self.tensors or len(self.tensors[name].shape) != 2:
            raise StageError(f"{self.fields.path} has no matrix {name}; convert the model again")
        return self.tensors[name].shape[0]

    def vector(self, name: str) -> npt.NDArray[np.float64]:
        """Return the numbers of a small tensor."""
        return self.tensors[name].read().astype(np.float64)

    def has_bias(self, *stems: str) -> bool:
        """Return whether the first layer's tensors have a bias, all or none of them.

        Raises:
            UnsupportedError: Some have, which config.json cannot say.
        """
        found = {f"blk.0.{stem}.bias" in self.tensors for stem in stems}
        if len(found) > 1:
            raise UnsupportedError(
                f"{self.fields.path}: only some of {', '.join(stems)} have a bias, which no config"
                " of transformers says"
            )
        return found.pop()

    def scaling(self, theta: float, dims: int) -> dict[str, Any] | None:
        """Return `rope_scaling`, from the tensor where there is one, else from the keys."""
        stated = stated_scaling(self.fields)
        if "rope_freqs.weight" not in self.tensors:
            return stated
        if stated is not None:
            raise UnsupportedError(f"{self.fields.path} states two rotary scalings")
        factors = self.vector("rope_freqs.weight")
        return llama3_scaling(self.fields, factors, theta=theta, dims=dims)
