"""Arrays bound to a graph once and run many times: no copy in, no copy out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lmonnx.errors import BundleError
from lmonnx.runtime.session import Arrays, Session, first_line


class BoundSession(Session):
    """A loaded graph that reads and writes the caller's own arrays, on the CPU."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Binding:
        """Bind every input and output of the graph to an array; see `Binding`."""
        return Binding(self._session, str(self._path), inputs, outputs)


class Binding:
    """One graph with its arrays: `run` reads the inputs as they are then, and fills the outputs.

    An array may be an input and an output at once where the operator writes in place.
    """

    def __init__(self, session: Any, where: str, inputs: Arrays, outputs: Arrays) -> None:
        self._session, self._where = session, where
        self._binding = session.io_binding()
        self.rebind(inputs, outputs)

    def rebind(self, inputs: Arrays, outputs: Arrays) -> None:
        """Put other arrays in the place of some; they are kept alive while they are bound.

        Raises:
            BundleError: The graph has no such input or output, or takes another type.
        """
        values: dict[int, Any] = {}  # of each array, which may be an input and an output
        try:
            for array in (*inputs.values(), *outputs.values()):
                if id(array) not in values:
                    values[id(array)] = _value(array)
            for name, array in inputs.items():
                self._binding.bind_ortvalue_input(name, values[id(array)])
            for name, array in outputs.items():
                self._binding.bind_ortvalue_output(name, values[id(array)])
        except Exception as error:
            raise BundleError(
                f"{self._where} does not take these arrays: {first_line(error)}"
            ) from error

    def run(self) -> None:
        """Run the graph once.

        Raises:
            BundleError: The graph fails on these arrays.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise BundleError(f"{self._where} fails: {first_line(error)}") from error


def _value(array: NDArray[Any]) -> Any:
    """Return onnxruntime's view of an array's own memory, which must lie in one piece."""
    if not array.flags.c_contiguous:
        raise ValueError("an array is not contiguous")
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array))
