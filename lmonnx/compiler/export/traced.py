"""Any architecture that optimum knows → ONNX by tracing; the one door to optimum."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.graph import OPSET
from lmonnx.errors import StageError, UnsupportedError

# Where optimum has another name: one graph serves these tasks.
_OPTIMUM_TASKS = {
    Task.TEXT_RANKING: Task.TEXT_CLASSIFICATION,
    Task.ZERO_SHOT_CLASSIFICATION: Task.TEXT_CLASSIFICATION,
}


def is_installed() -> bool:
    """Say whether the `optimum` extra is there."""
    return all(find_spec(name) is not None for name in ("optimum", "torch", "transformers"))


@contextmanager
def traced_folder(checkpoint: Checkpoint, task: Task) -> Iterator[Checkpoint]:
    """Trace a checkpoint into a temporary folder in optimum's layout.

    No code of the checkpoint is run, and nothing is downloaded.

    Raises:
        UnsupportedError: optimum is not installed, or does not know the architecture.
        StageError: Tracing failed.
    """
    if not is_installed():
        raise UnsupportedError(
            f"{checkpoint.architecture} needs the tracing engine: pip install 'lmonnx[optimum,cpu]'"
        )
    with tempfile.TemporaryDirectory(prefix="lmonnx-trace-") as folder:
        _trace(checkpoint, task, folder)
        yield replace(checkpoint, path=Path(folder))


def _trace(checkpoint: Checkpoint, task: Task, folder: str) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optimum.exporters.onnx import main_export

        logging.getLogger("optimum").setLevel(logging.ERROR)
        try:
            main_export(
                str(checkpoint.path),
                output=folder,
                task=_OPTIMUM_TASKS.get(task, task).value,
                # Of a sentence-transformers model too, the encoder alone is traced.
                library_name="transformers",
                opset=OPSET,
                do_validation=False,
                trust_remote_code=False,
                local_files_only=True,
                framework="pt",
            )
        except (ValueError, KeyError) as error:
            raise UnsupportedError(f"optimum: {_first_line(error)}") from error
        except Exception as error:
            raise StageError(
                f"optimum failed on {checkpoint.repo}: {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
