"""What a refused ONNX graph leaves to be tried: to build the architecture from its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.native.decoders import DECODERS
from lmonnx.compiler.export.native.seq2seq import SEQ2SEQS
from lmonnx.errors import ParityError, UnsupportedError


@contextmanager
def native_offered(checkpoint: Checkpoint) -> Iterator[None]:
    """Add to a refusal that the native engine builds the architecture, where it does.

    Raises:
        UnsupportedError: As it was raised within, and so is ParityError.
    """
    try:
        yield
    except (UnsupportedError, ParityError) as error:
        name = checkpoint.architecture
        if name not in SEQ2SEQS and name not in DECODERS:
            raise
        raise type(error)(f"{error} (--engine native builds {name} from its checkpoint)") from error
