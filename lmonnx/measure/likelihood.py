"""A decoder and a text file → how well it predicts the text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lmonnx.errors import InputError
from lmonnx.measure.tables import BOM
from lmonnx.runtime.pipelines.text_generation import TextGenerator

_MOST_MIB = 64


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How well `predictions` tokens were predicted, each from at most `window` before it.

    `bits_per_byte` is of the UTF-8 text, so that models of different tokenizers compare.
    """

    tokens: int
    predictions: int
    window: int
    stride: int
    perplexity: float
    bits_per_byte: float


def measure_likelihood(
    model: TextGenerator, path: Path, *, window: int | None = None, stride: int | None = None
) -> Likelihood:
    """Score a text file as one text.

    Args:
        model: A loaded decoder.
        path: UTF-8 text of at most 64 MiB.
        window: Tokens that are read together; None is the model's context.
        stride: How far the window moves at a time; None is half of it.

    Raises:
        InputError: The file cannot be read, is too short, or window and stride do not fit.
    """
    text = read_text(path)
    score = model.score(text, window=window, stride=stride)
    size = window or model.context
    nats = -math.fsum(score.logprobs)
    return Likelihood(
        tokens=len(score.token_ids),
        predictions=len(score.logprobs),
        window=size,
        stride=stride or max(1, size // 2),
        perplexity=score.perplexity,
        bits_per_byte=nats / math.log(2) / len(text.encode()),
    )


def read_text(path: Path, *, most_mib: int = _MOST_MIB) -> str:
    """Return a file of UTF-8 text of at most `most_mib` MiB, as it is but for a byte order mark.

    Raises:
        InputError: It cannot be read, is larger, or is no UTF-8.
    """
    name = f"{path!s:.200}"
    try:
        with path.open("rb") as file:
            content = file.read(most_mib * 2**20 + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{name} cannot be read ({why}); check the path") from error
    if len(content) > most_mib * 2**20:
        raise InputError(f"{name} is larger than {most_mib} MiB; give a smaller file")
    try:
        return content.removeprefix(BOM).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no UTF-8 text (at byte {error.start}); convert it") from error
