"""Every error that lmonnx raises on purpose, as one tree.

LmonnxError
├── BundleError       a bundle is missing, broken, unsafe or of a newer format
├── UnsupportedError  an architecture, task, option or provider that is not there
├── StageError        a stage could not do its work on this input
│   └── GateError     a quantized bundle loses more than was allowed
├── ParityError       outputs differ from the reference by more than was allowed
└── InputError        text or options that the caller gave are wrong
"""


class LmonnxError(Exception):
    """Carry one line that says what is wrong and the way out."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message as one line, whatever a library's error put into it."""
        return " ".join(super().__str__().split())


class BundleError(LmonnxError):
    """Say that a bundle is missing, broken, unsafe or of a newer format."""


class UnsupportedError(LmonnxError):
    """Say that an architecture, task, option or provider is not supported, and what is."""


class StageError(LmonnxError):
    """Say that a stage could not do its work on this checkpoint or bundle."""


class GateError(StageError):
    """Say that a stage's result loses more accuracy than allowed; nothing was written."""

    exit_code = 3


class ParityError(LmonnxError):
    """Say that outputs differ from the reference by more than the tolerance."""

    exit_code = 3


class InputError(LmonnxError, ValueError):
    """Say that text or an option given by the caller is wrong."""
