"""generation_config.json, the chat template and the stop tokens → how a decoder generates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import CacheSpec, Generation
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.text import SETTINGS
from lmonnx.errors import StageError

GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
_DEFAULT = "default"  # of several templates, the one for a chat without tools
# The settings of generation_config.json that choose the next token, in transformers' names.
SAMPLING = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "max_new_tokens",
)


def export_generation(
    checkpoint: Checkpoint, draft: Draft, *, context: int, vocabulary: int, cache: CacheSpec
) -> Generation:
    """Write the chat template into the draft and say how the runtime generates.

    Args:
        checkpoint: Where the files are.
        draft: Where the template goes.
        context: How many tokens the model takes at most.
        vocabulary: V, the width of the logits.
        cache: The graph's cache.

    Raises:
        StageError: A file is damaged, or a stop token is no id of the model.
    """
    settings = checkpoint.json_file(GENERATION_CONFIG) or {}
    stated = {**checkpoint.config, **settings}
    defaults = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
    return Generation(
        context=context,
        vocabulary=vocabulary,
        cache=cache,
        stop_ids=stop_ids(stated, vocabulary),
        bos_id=stated_id(stated, "bos_token_id", vocabulary),
        chat_template=_write_template(checkpoint, draft),
        defaults=defaults or None,
    )


def stop_ids(settings: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Return the ids that end a completion, in the order of the file, each once."""
    return tuple(dict.fromkeys(_ids(settings, "eos_token_id", vocabulary)))


def stated_id(settings: Mapping[str, Any], name: str, vocabulary: int) -> int | None:
    """Return the first id that a field names; None where it names none."""
    return next(_ids(settings, name, vocabulary), None)


def _ids(settings: Mapping[str, Any], name: str, vocabulary: int) -> Iterator[int]:
    """Yield the ids that a field names: none, one, or a list of them."""
    value = settings.get(name)
    for index in value if isinstance(value, list) else [value]:
        if index is None:
            continue
        if type(index) is not int or not 0 <= index < vocabulary:
            raise StageError(
                f"the token {index!r:.100} that generation starts or ends with is no id below "
                f"{vocabulary}; correct {name} in {GENERATION_CONFIG} or config.json"
            )
        yield index


def _write_template(checkpoint: Checkpoint, draft: Draft) -> str | None:
    """Write the template of a chat, if the checkpoint has one; return its file."""
    template = _read_template(checkpoint)
    if template is None:
        return None
    draft.file(CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    return CHAT_TEMPLATE


def _read_template(checkpoint: Checkpoint) -> str | None:
    path = checkpoint.path / CHAT_TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise StageError(f"{path} is not UTF-8 text; fetch it again") from error
    older = checkpoint.json_file("chat_template.json") or {}
    settings = checkpoint.json_file(SETTINGS) or {}
    stated = older.get("chat_template") or settings.get("chat_template")
    if stated is None or isinstance(stated, str):
        return stated
    return _named(stated)


def _named(templates: Any) -> str | None:
    """Return the default of several templates: a list of objects with name and template."""
    try:
        by_name = {str(entry["name"]): str(entry["template"]) for entry in templates}
    except (TypeError, KeyError) as error:
        raise StageError(
            f"{SETTINGS}: chat_template is neither text nor a list of named templates"
        ) from error
    return by_name.get(_DEFAULT) or next(iter(by_name.values()), None)
