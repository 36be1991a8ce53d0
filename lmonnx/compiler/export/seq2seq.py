"""An encoder-decoder's checkpoint → its two graphs in a bundle, and how it generates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import CacheSpec, Generation, GraphSpec, Languages, Place, Seq2Seq
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.generation import GENERATION_CONFIG, stated_id, stop_ids
from lmonnx.compiler.export.languages import aimed, read_languages
from lmonnx.compiler.export.native.seq2seq import SEQ2SEQS
from lmonnx.compiler.export.native.seq2seq.build import build_seq2seq, cache_spec, read_seq2seq
from lmonnx.compiler.stage import SEQ2SEQ_FILES
from lmonnx.errors import StageError

# What transformers' `generate` does where nothing is stated; config.json may state these as well.
_DEFAULTS: Mapping[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "suppress_tokens": None,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
}
# These count as changes of config.json too, though they choose no token.
_REPORTED: Mapping[str, Any] = {"output_scores": False, "return_dict_in_generate": False}
# What the classes that have no family here state where config.json is silent (transformers 4.57).
_BLENDERBOT = {
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": 2
}  # fmt: skip
_BART = {"bos_token_id": 0, "eos_token_id": 2}
CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "bigbird_pegasus": {"bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2},
    "blenderbot": {**_BLENDERBOT, "encoder_no_repeat_ngram_size": 3},
    "blenderbot-small": _BLENDERBOT,
    "fsmt": {
        **_BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
        "max_length": 200, "num_beams": 5,
    },
    "led": {**_BART, "decoder_start_token_id": 2},
    "longt5": {"eos_token_id": 1},
    "mvp": {**_BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
    "nllb-moe": {**_BART, "decoder_start_token_id": 2},
    "pegasus_x": {"eos_token_id": 1, "decoder_start_token_id": 0, "forced_eos_token_id": 1},
    "plbart": {**_BART, "forced_eos_token_id": 2},
    "prophetnet": {"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0},
    "switch_transformers": {"eos_token_id": 1},
    "umt5": {"eos_token_id": 1, "decoder_start_token_id": 0},
}  # fmt: skip
# Those whose class reads an older name of forced_bos_token_id.
_FORCING = frozenset({"bart", "mvp"})
# All that goes into a bundle.
SETTINGS = (
    *_DEFAULTS,
    "assistant_early_exit",
    "constraints",
    "dola_layers",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "force_words_ids",
    "guidance_scale",
    "max_new_tokens",
    "max_time",
    "min_new_tokens",
    "min_p",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "renormalize_logits",
    "sequence_bias",
    "stop_strings",
    "token_healing",
    "watermarking_config",
)


def export_seq2seq(
    checkpoint: Checkpoint, draft: Draft
) -> tuple[Mapping[str, GraphSpec], int, Generation]:
    """Write both graphs into the draft.

    Returns:
        The graphs by role, the most tokens of a source, and how the runtime generates.

    Raises:
        UnsupportedError: The architecture or a field of config.json is not built here.
        StageError: A file is damaged, or a token is no id of the model.
    """
    plan = read_seq2seq(checkpoint)
    for file in SEQ2SEQ_FILES.values():
        draft.file(file)
    graphs = build_seq2seq(checkpoint, plan, draft.path, SEQ2SEQ_FILES)
    generation = seq2seq_generation(
        checkpoint,
        context=plan.context,
        vocabulary=plan.decoder.vocabulary,
        cache=cache_spec(plan),
    )
    return graphs, plan.source, generation


def seq2seq_generation(
    checkpoint: Checkpoint, *, context: int, vocabulary: int, cache: CacheSpec
) -> Generation:
    """Return how the runtime generates with an encoder-decoder.

    Args:
        checkpoint: Where the files are.
        context: How many tokens an answer has at most.
        vocabulary: V, the width of the logits.
        cache: The decoder's.

    Raises:
        StageError: A file is damaged, or a token is no id of the model.
    """
    settings = generation_settings(checkpoint)
    start = _start_id(settings, vocabulary)
    forced = stated_id(settings, "forced_bos_token_id", vocabulary)
    languages = aimed(_languages(checkpoint, vocabulary), start=start, forced=forced)
    tasks = _stated_tasks(checkpoint)
    prefixes = {name: text for name, params in tasks.items() if (text := _prefix(params))}
    same = {"decoder_start_token_id": start, "eos_token_id": settings.get("eos_token_id")}
    if languages is not None and languages.target_place is Place.START:
        del same["decoder_start_token_id"]  # a language is
    return Generation(
        context=context,
        vocabulary=vocabulary,
        cache=cache,
        stop_ids=stop_ids(settings, vocabulary),
        bos_id=stated_id(settings, "bos_token_id", vocabulary),
        defaults={name: settings[name] for name in SETTINGS if name in settings} or None,
        seq2seq=Seq2Seq(
            start_id=start,
            languages=languages,
            prefixes=prefixes or None,
            task_settings=_task_settings(tasks, same) or None,
        ),
    )


def generation_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the fields that `generate` of transformers follows, null ones left out.

    They are generation_config.json's, or those of config.json and its class where there is no such
    file, or one that says that it was made of config.json, and config.json has been changed since:
    states a setting otherwise than its class does.

    Source:
        transformers, `GenerationConfig.from_model_config`,
        `GenerationMixin._prepare_generation_config` and
        `PretrainedConfig._get_non_default_generation_parameters`.
    """
    known = SEQ2SEQS.get(checkpoint.architecture)
    family = known.generation if known else CLASS_DEFAULTS.get(checkpoint.architecture, {})
    config = {**family, **checkpoint.config}
    forcing = checkpoint.architecture in _FORCING and config.get("force_bos_token_to_be_generated")
    if forcing and config.get("forced_bos_token_id") is None:
        config["forced_bos_token_id"] = config.get("bos_token_id")
    stored = checkpoint.json_file(GENERATION_CONFIG)
    usual = {**_DEFAULTS, **_REPORTED, **family}
    changed = any(config.get(name) not in (None, usual[name]) for name in (*_DEFAULTS, *_REPORTED))
    found = config
    if stored is not None and not (stored.get("_from_model_config") and changed):
        found = stored
    return {name: value for name, value in found.items() if value is not None}


def _languages(checkpoint: Checkpoint, vocabulary: int) -> Languages | None:
    """Return the languages of the tokenizer, whose tokens must all be ids of the model."""
    languages = read_languages(checkpoint)
    ids = languages.ids if languages else {}
    last = max(ids, key=ids.__getitem__, default=None)
    if last is not None and ids[last] >= vocabulary:
        raise StageError(
            f"the tokenizer's language {last} is the token {ids[last]}, but the model has "
            f"{vocabulary} tokens; the tokenizer's files and config.json (vocab_size) are not of "
            "one model: fetch them again"
        )
    return languages


def _start_id(settings: Mapping[str, Any], vocabulary: int) -> int:
    """Return the token that the decoder starts with.

    Source:
        transformers, `GenerationMixin._prepare_special_tokens`.
    """
    for name in ("decoder_start_token_id", "bos_token_id"):
        if (start := stated_id(settings, name, vocabulary)) is not None:
            return start
    raise StageError(
        f"neither {GENERATION_CONFIG} nor config.json states decoder_start_token_id; add it"
    )


def _stated_tasks(checkpoint: Checkpoint) -> Mapping[str, Mapping[str, Any]]:
    """Return the task_specific_params of config.json by the tasks' names.

    Raises:
        StageError: They are damaged.
    """
    stated = checkpoint.config.get("task_specific_params") or {}
    if not isinstance(stated, dict) or not all(isinstance(of, dict) for of in stated.values()):
        raise StageError("config.json: task_specific_params must be an object of objects")
    return stated


def _prefix(params: Mapping[str, Any]) -> str:
    prefix = params.get("prefix")
    return prefix if isinstance(prefix, str) else ""


def _task_settings(
    tasks: Mapping[str, Mapping[str, Any]], same: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the settings that translation and summarization have of their own, by task.

    Args:
        tasks: What config.json states.
        same: TASK_TOKENS of the model; a task's that is another is kept, and refused when it runs.
    """
    found = {
        task: {
            name: value
            for name, value in params.items()
            if name in SETTINGS or (name in same and value not in (None, same[name]))
        }
        for task, params in tasks.items()
        if task.startswith(("summarization", "translation"))
    }
    return {task: settings for task, settings in found.items() if settings}
