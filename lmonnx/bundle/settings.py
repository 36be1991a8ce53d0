"""The settings that a checkpoint generates with: the model's, a task's, and what is not built."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lmonnx.bundle.generation import Generation

UNSET_LENGTH = 20  # transformers writes its own default where nobody chose
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
# What a task may not have of its own; the manifest keeps one only where it is not the model's.
TASK_TOKENS = ("decoder_start_token_id", "eos_token_id")


def settings_of(generation: Generation, tasks: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings in transformers' names, null ones left out: a task's over the model's.

    A task's `max_length` counts only where the model states one of its own, or the task unsets
    `max_new_tokens`: the 256 tokens of transformers' pipelines outrank it.

    Args:
        generation: What the manifest says.
        tasks: Names of tasks in the checkpoint; what all of them state alike counts.

    Source:
        transformers 4.57, `Pipeline.__init__`.
    """
    own = {name: value for name, value in (generation.defaults or {}).items() if value is not None}
    asked = _shared(generation, tasks)
    lengths = (own.get("max_length", UNSET_LENGTH), asked.get("max_length"))
    if UNSET_LENGTH in lengths and "max_new_tokens" not in asked:
        asked.pop("max_length", None)
    return {name: value for name, value in {**own, **asked}.items() if value is not None}


def unmet(
    generation: Generation, given: Collection[str] = (), tasks: Collection[str] = ()
) -> str | None:
    """Return a setting of the checkpoint that changes answers and is not built, with its value.

    Args:
        generation: What the manifest says.
        given: Params that stand in the place of the checkpoint's own, by their names.
        tasks: As for `settings_of`.
    """
    stated = settings_of(generation, tasks)
    drawn_beams = stated.get("do_sample") is True and stated.get("num_beams", 1) != 1
    if drawn_beams and "temperature" not in given:  # which says whether to draw
        return f"do_sample = True of num_beams = {stated['num_beams']}"
    for name, value in stated.items():
        if name in TASK_TOKENS or (name in NOT_BUILT and value not in NOT_BUILT[name]):
            return f"{name} = {value!r:.60}"
    return None


def warning_of(generation: Generation | None) -> str | None:
    """Return what is to be said of an encoder-decoder whose settings `lmonnx run` will refuse."""
    if generation is None or generation.seq2seq is None:
        return None
    found = {"": unmet(generation)}
    if found[""] is None:
        tasks = generation.seq2seq.task_settings or {}
        found = {f" for {task}": unmet(generation, tasks=(task,)) for task in tasks}
    asked = [f"{setting}{task}" for task, setting in found.items() if setting is not None]
    if not asked:
        return None
    return (
        f"the checkpoint asks for {'; '.join(asked)}, which is not built: `lmonnx run` will refuse "
        "to answer so; set it to null in the checkpoint's files and export again, or from Python "
        "give params made of the model's `built_defaults`"
    )


def _shared(generation: Generation, tasks: Collection[str]) -> dict[str, Any]:
    """Return what every one of the tasks states alike."""
    stated = (generation.seq2seq.task_settings if generation.seq2seq else None) or {}
    first, *others = [stated.get(task, {}) for task in tasks] or [{}]
    return {
        name: value
        for name, value in first.items()
        if all(name in each and each[name] == value for each in others)
    }
