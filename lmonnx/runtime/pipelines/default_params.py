"""A checkpoint's generation settings, in transformers' names → SamplingParams."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lmonnx.bundle.manifest import Generation, Place
from lmonnx.bundle.settings import UNSET_LENGTH, settings_of, unmet
from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime.generate.params import UNASKED, SamplingParams

BEAMS = 4  # where the checkpoint says nothing, as transformers' pipelines
_SAME = (
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "repetition_penalty",
    "bad_words_ids",
    "suppress_tokens",
    "renormalize_logits",
)
# Settings of chance, with what transformers takes where only `do_sample` is set.
_CHANCE: Mapping[str, Any] = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
}


def default_params(
    generation: Generation, *, context: int, tasks: Collection[str] = ()
) -> SamplingParams:
    """Return how a checkpoint wants to be decoded.

    Lengths of transformers count the token that the decoder starts with, ours do not. What the
    checkpoint does not say is as in transformers' pipelines: 4 beams, 256 tokens. A least length
    above the most is the most: `generate` warns of it, and bans the end until it stops there.

    Args:
        generation: What the manifest says.
        context: The most decoder tokens, the start included.
        tasks: The checkpoint's names of what is asked for, see `settings_of`.

    Raises:
        BundleError: A setting has a value that cannot be.
    """
    stated = settings_of(generation, tasks)
    draws = stated.get("do_sample") is True and stated.get("num_beams", 1) == 1
    asked: dict[str, Any] = {"num_beams": 1 if draws else BEAMS}
    asked |= {name: stated[name] for name in _SAME if name in stated}
    asked["n"] = stated.get("num_return_sequences", 1)
    if draws:
        asked |= {name: stated.get(name, value) for name, value in _CHANCE.items()}
    forced = _only(stated, "forced_bos_token_id")
    if forced is not None and not _forces_language(generation):
        asked["forced_ids"] = (forced,)
    asked["forced_eos_token_id"] = _only(stated, "forced_eos_token_id")
    try:
        asked |= _lengths(stated, context)
        return SamplingParams(**asked)
    except (InputError, TypeError) as error:
        of_ours = ", where n is num_return_sequences," if "num_return_sequences" in stated else ""
        of_task = " or config.json's task_specific_params" if tasks else ""
        raise BundleError(
            f"the checkpoint's generation settings cannot be ({error}); correct its "
            f"generation_config.json{of_ours}{of_task} and export it again"
        ) from error


def check_built(generation: Generation, tasks: Collection[str] = ()) -> None:
    """Refuse a checkpoint whose own settings, or those of `tasks`, ask for what is not built.

    Raises:
        UnsupportedError: They do.
    """
    if (setting := unmet(generation, tasks=tasks)) is not None:
        raise UnsupportedError(
            f"the checkpoint asks for {setting}, which is not built; to decode without it give "
            "params made of the model's `built_defaults`"
        )


def _forces_language(generation: Generation) -> bool:
    languages = generation.seq2seq.languages if generation.seq2seq else None
    return languages is not None and languages.target_place is Place.FORCED


def _lengths(stated: Mapping[str, Any], context: int) -> dict[str, int]:
    most, least = stated.get("max_new_tokens"), stated.get("min_new_tokens")
    if most is None:
        length = stated.get("max_length", UNSET_LENGTH)
        most = UNASKED if length == UNSET_LENGTH else length - 1
    if least is None:
        least = max(0, stated.get("min_length", 0) - 1)
    most = min(most, max(1, context - 1))
    return {"max_new_tokens": most, "min_new_tokens": min(least, most)}


def _only(stated: Mapping[str, Any], name: str) -> Any:
    """Return an id, which may stand in a list of one."""
    value = stated.get(name)
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
