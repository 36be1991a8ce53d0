"""A checkpoint's generation settings, in transformers' names → SamplingParams."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lmonnx.bundle.manifest import Generation, Place
from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime.generate.params import UNASKED, SamplingParams

BEAMS = 4  # where the checkpoint says nothing, as transformers' pipelines
_UNSET_LENGTH = 20  # transformers writes its own default where nobody chose
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
# Settings that are not built, with the values at which they change nothing. Three are left out on
# purpose: `max_time` is the clock's, `remove_invalid_values` is of NaN, which is an error here, and
# what `assistant_early_exit` guesses is checked by the whole model. So is what prompt lookup
# guesses, but transformers 4.57 then writes past max_length, or stops at a start that is an end.
NOT_BUILT: Mapping[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": (None, []),
    "constraints": (None,),
    "diversity_penalty": (None, 0),
    "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1),
    "epsilon_cutoff": (None, 0),
    "eta_cutoff": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None, []),
    "guidance_scale": (None, 1),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0),
    "prompt_lookup_num_tokens": (None,),
    "sequence_bias": (None, {}, []),
    "stop_strings": (None, "", []),
    "token_healing": (None, False),
    "watermarking_config": (None,),
}


def default_params(generation: Generation, *, context: int) -> SamplingParams:
    """Return how a checkpoint wants to be decoded.

    Lengths of transformers count the token that the decoder starts with, ours do not. What the
    checkpoint does not say is as in transformers' pipelines: 4 beams, 256 tokens.

    Args:
        generation: What the manifest says.
        context: The most decoder tokens, the start included.

    Raises:
        BundleError: A setting has a value that cannot be.
    """
    stated = {k: v for k, v in (generation.defaults or {}).items() if v is not None}
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
        raise BundleError(
            f"the checkpoint's generation settings cannot be ({error}); correct its "
            f"generation_config.json{of_ours} and export it again"
        ) from error


def unmet(generation: Generation, given: Collection[str] = ()) -> str | None:
    """Return a setting of the checkpoint that changes answers and is not built, with its value.

    Args:
        generation: What the manifest says.
        given: Params that stand in the place of the checkpoint's own, by their names.
    """
    stated = generation.defaults or {}
    drawn_beams = stated.get("do_sample") is True and (stated.get("num_beams") or 1) > 1
    if drawn_beams and "temperature" not in given:  # which says whether to draw
        return f"do_sample = True of num_beams = {stated['num_beams']}"
    for name, value in stated.items():
        if name in NOT_BUILT and value not in NOT_BUILT[name]:
            return f"{name} = {value!r:.60}"
    return None


def check_built(generation: Generation) -> None:
    """Refuse a checkpoint whose own settings ask for what is not built.

    Raises:
        UnsupportedError: They do.
    """
    if (setting := unmet(generation)) is not None:
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
        length = stated.get("max_length", _UNSET_LENGTH)
        most = UNASKED if length == _UNSET_LENGTH else length - 1
    if least is None:
        least = max(0, stated.get("min_length", 0) - 1)
    most = max(1, min(most, context - 1))
    return {"max_new_tokens": most, "min_new_tokens": min(least, most)}


def _only(stated: Mapping[str, Any], name: str) -> Any:
    """Return an id, which may stand in a list of one."""
    value = stated.get(name)
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
