"""What a call for vectors may ask, checked where it enters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lmonnx.bundle.manifest import EmbeddingSpec
from lmonnx.errors import InputError
from lmonnx.runtime.pipelines.base import as_plain, check_many, long_policy
from lmonnx.runtime.pooling import Packing, Vectors
from lmonnx.runtime.tokenizer import Long

# They spread over the range of each dimension, which one vector has not.
SPREAD = frozenset({Packing.INT8, Packing.UINT8})


@dataclass(frozen=True, slots=True)
class Request:
    """What one call asks for; `skipped` is of how many tokens a prompt that is not pooled is."""

    long: Long
    prompt: str
    skipped: int
    dimensions: int
    normalize: bool | None


def listed(texts: str | Iterable[str]) -> Sequence[str]:
    """Return texts as a sequence; one becomes a list.

    Raises:
        InputError: This is no text, nor texts.
    """
    if isinstance(texts, str):
        return [texts]
    check_many(texts)
    return texts if isinstance(texts, list | tuple) else list(texts)


def rule_of(long: Long | str | None, own: Long) -> Long:
    """Return the rule for long text; `own` is the model's.

    Raises:
        InputError: There is no such rule, or it is for scores.
    """
    rule = own if long is None else long_policy(long)
    if rule is Long.MAX:
        raise InputError("long is 'max', which vectors have not; give window, truncate or error")
    return rule


def cut_of(dimensions: int, width: int) -> int:
    """Return how many dimensions to keep.

    Raises:
        InputError: It is no number from 1 to `width`.
    """
    if type(dimensions) is not int or not 1 <= dimensions <= width:
        raise InputError(f"dimensions is {dimensions!r:.40}, must be from 1 to {width}")
    return dimensions


def switch_of(normalize: bool | None) -> bool | None:  # noqa: FBT001
    """Return `normalize` as it is.

    Raises:
        InputError: It is no boolean.
    """
    if normalize is not None and not isinstance(normalize, bool):
        raise InputError(f"normalize is {normalize!r:.40}, must be True, False or None")
    return normalize


def prompt_of(spec: EmbeddingSpec, prompt: str | None, name: str | None) -> str:
    """Return the text that stands before every text, "" for none.

    Raises:
        InputError: Both are given, the prompt is no text, or the model has none of that name.
    """
    known = spec.prompts or {}
    if prompt is not None:
        if name is not None:
            raise InputError("prompt and prompt_name are both given; give one of them")
        return as_plain(prompt)
    name = spec.default_prompt if name is None else name
    if name is None:
        return ""
    if not isinstance(name, str) or name not in known:
        names = ", ".join(known) or "none"
        raise InputError(f"prompt_name is {name!r:.60}, the model knows {names}; or pass prompt")
    return known[name]


def packing_of(precision: Packing | str, ranges: Vectors | None, dimensions: int) -> Packing:
    """Return how vectors are packed.

    Raises:
        InputError: There is no such packing, or `ranges` are not (2, E) numbers.
    """
    try:
        packing = Packing(precision)
    except ValueError as error:
        known = ", ".join(Packing)
        raise InputError(f"precision is {precision!r:.40}, must be one of {known}") from error
    if ranges is not None and not _are_ranges(ranges, dimensions):
        raise InputError(
            f"ranges must be an array of numbers (2, {dimensions}): the least and the greatest "
            "value of each dimension"
        )
    return packing


def _are_ranges(ranges: object, dimensions: int) -> bool:
    if not isinstance(ranges, np.ndarray):
        return False
    return ranges.dtype.kind in "fiu" and ranges.shape == (2, dimensions)
