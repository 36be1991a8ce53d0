"""Any architecture that optimum knows → ONNX by tracing; the one door to optimum."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.graph import OPSET
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.runtime.session import first_line

_ENCODER_DECODERS = (Task.TRANSLATION, Task.SUMMARIZATION, Task.TEXT_TO_TEXT)
# Where optimum has another name: one graph serves these tasks.
_OPTIMUM_TASKS: Mapping[Task, str] = {
    Task.TEXT_RANKING: Task.TEXT_CLASSIFICATION,
    Task.ZERO_SHOT_CLASSIFICATION: Task.TEXT_CLASSIFICATION,
    Task.TEXT_GENERATION: "text-generation-with-past",
    **dict.fromkeys(_ENCODER_DECODERS, "text2text-generation-with-past"),
}
# Encoder-decoders that are not built here but traced, and what they are for.
SEQ2SEQ_TASKS: Mapping[str, Task] = {
    "bigbird_pegasus": Task.SUMMARIZATION,
    "blenderbot": Task.TEXT_TO_TEXT,
    "blenderbot-small": Task.TEXT_TO_TEXT,
    "longt5": Task.TEXT_TO_TEXT,
}

# Decoders that optimum 0.1 traces without position_ids, though their models take them.
_COUNTING = frozenset({"gemma", "gemma2", "gemma3_text", "gpt_oss", "nemotron"})

# Of the scores; torch's fused attention, which is traced, passes over it (transformers 4.57).
_SOFT_CAP = "attn_logit_softcapping"
# BigBird's block-sparse attention is left for the full one where a text is short, as traced ones
# are; unstated it is block-sparse.
_SPARSE, _FULL = frozenset({"big_bird", "bigbird_pegasus"}), "original_full"
_UNKNOWN = "Trying to export a"  # "custom or unsupported architecture", says optimum of it
# What transformers says of weights that it does not find under their names.
_NAMED = re.compile(r"'([^']+)'")
_RECOVERED = re.compile(r"missing tied weight (\S+) from")


def is_installed() -> bool:
    """Say whether the `optimum` extra is there."""
    return all(find_spec(name) is not None for name in ("optimum", "torch", "transformers"))


@contextmanager
def traced_folder(checkpoint: Checkpoint, task: Task) -> Iterator[Checkpoint]:
    """Trace a checkpoint into a temporary folder in optimum's layout.

    No code of the checkpoint is run, and nothing is downloaded.

    Raises:
        UnsupportedError: optimum is not installed, or does not know the architecture or a field.
        StageError: Tracing failed.
    """
    if not is_installed():
        raise UnsupportedError(
            f"{checkpoint.architecture} needs the tracing engine: pip install 'lmonnx[optimum,cpu]'"
        )
    if checkpoint.config.get(_SOFT_CAP) is not None:
        raise UnsupportedError(
            f"optimum traces {checkpoint.architecture} without {_SOFT_CAP}; use --engine native"
        )
    if checkpoint.architecture in _SPARSE and checkpoint.config.get("attention_type") != _FULL:
        raise UnsupportedError(
            f"optimum traces {checkpoint.architecture} with full attention in the place of the "
            f"block-sparse; a checkpoint whose attention_type is {_FULL} can be traced"
        )
    with tempfile.TemporaryDirectory(prefix="lmonnx-trace-") as folder:
        _trace(checkpoint, task, folder)
        yield replace(checkpoint, path=Path(folder))


def _trace(checkpoint: Checkpoint, task: Task, folder: str) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with warnings.catch_warnings(), _told("transformers") as told:
        warnings.simplefilter("ignore")
        from optimum.exporters.onnx import main_export

        logging.getLogger("optimum").setLevel(logging.CRITICAL)  # what is an error is raised
        try:
            main_export(
                str(checkpoint.path),
                output=folder,
                task=str(_OPTIMUM_TASKS.get(task, task)),
                # Of a sentence-transformers model too, the encoder alone is traced.
                library_name="transformers",
                opset=OPSET,
                do_validation=False,
                no_post_process=True,  # which would merge the decoders of an encoder-decoder
                trust_remote_code=False,
                local_files_only=True,
                framework="pt",
                custom_onnx_configs=_configs(checkpoint, task),
            )
        except (ValueError, KeyError) as error:
            if _UNKNOWN in str(error):
                raise UnsupportedError(
                    f"neither lmonnx nor optimum can export {checkpoint.architecture} for {task}; "
                    "a folder that holds its ONNX graphs can be adopted (--engine adopt)"
                ) from error
            raise UnsupportedError(f"optimum: {first_line(error)}") from error
        except Exception as error:
            raise StageError(f"optimum failed on {checkpoint.repo}: {first_line(error)}") from error

    if task in _ENCODER_DECODERS and (drawn := _drawn(told)):
        raise StageError(
            f"transformers finds no weights for {', '.join(sorted(drawn))} in {checkpoint.repo} "
            "and draws them; use --engine native"
        )


def _drawn(told: Iterable[str]) -> set[str]:
    """Return the weights that transformers, as it says, draws and finds nowhere else."""
    drawn: set[str] = set()
    found: set[str] = set()
    for line in told:
        if "newly initialized" in line:
            drawn.update(_NAMED.findall(line))
        found.update(_RECOVERED.findall(line))
    return drawn - found


@contextmanager
def _told(name: str) -> Iterator[list[str]]:
    """Collect what a logger says from warnings on."""
    logger, lines = logging.getLogger(name), list[str]()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, level = Collector(logging.WARNING), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def _configs(checkpoint: Checkpoint, task: Task) -> dict[str, Any]:
    """Return optimum's description of a decoder with `position_ids` where it has none.

    Without them the graph counts from the batch's longest text on, which is wrong of the others.
    """
    if task is not Task.TEXT_GENERATION or checkpoint.architecture not in _COUNTING:
        return {}
    from optimum.exporters.tasks import TasksManager
    from transformers import AutoConfig

    make = TasksManager.get_exporter_config_constructor(
        "onnx",
        model_type=checkpoint.architecture,
        task=_OPTIMUM_TASKS[task],
        library_name="transformers",
    )

    class Positioned(make.func):  # type: ignore[misc, name-defined]
        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            places = {"position_ids": {0: "batch_size", 1: "sequence_length"}}
            return {**super().inputs, **places}

    config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True)
    return {"model": Positioned(config, **make.keywords, use_past_in_inputs=True)}
