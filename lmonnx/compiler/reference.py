"""A checkpoint's own answers, by transformers; the one door to it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import TextSpec
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.runtime.tokenizer import Text

BATCH = 8  # padded batches of mixed length: padding must not change an answer


def is_installed() -> bool:
    """Say whether torch and transformers are there."""
    return all(find_spec(name) is not None for name in ("torch", "transformers"))


def reference_logits(
    checkpoint: Checkpoint, texts: Sequence[Text], *, text: TextSpec
) -> NDArray[np.float32]:
    """Return a classifier's logits, (N, C), in float32 arithmetic, from padded batches.

    No code of the checkpoint is run, and nothing is downloaded.

    Args:
        checkpoint: What answers.
        texts: What is asked; all plain or all pairs.
        text: The bundle's, for where it pads (absolute positions move with the other side) and
            cuts.

    Raises:
        UnsupportedError: transformers or torch is not installed.
        StageError: transformers cannot load the checkpoint.
    """
    if not is_installed():
        raise UnsupportedError(
            "comparing with a checkpoint needs transformers and torch: "
            "pip install 'lmonnx[optimum,cpu]', or verify against a golden file (--golden)"
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _logits(checkpoint, texts, text)


def _logits(checkpoint: Checkpoint, texts: Sequence[Text], text: TextSpec) -> NDArray[np.float32]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, **options)
        model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint.path, dtype=torch.float32, **options
        ).eval()
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise StageError(f"transformers cannot load {checkpoint.repo}: {error!s:.300}") from error
    tokenizer.padding_side = text.source.padding_side.value
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), BATCH):
            chosen = list(texts[start : start + BATCH])
            batch = tokenizer(
                *_columns(chosen),
                padding=True,
                truncation=True,
                max_length=text.max_length,
                return_tensors="pt",
            )
            rows.append(model(**batch).logits.float().numpy())
    return np.concatenate(rows)


def _columns(texts: list[Text]) -> list[list[str]]:
    """Return the texts, and beside them their pairs if there are any."""
    if all(isinstance(text, str) for text in texts):
        return [[str(text) for text in texts]]
    return [[text[0] for text in texts], [text[1] for text in texts]]
