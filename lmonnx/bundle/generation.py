"""How a model generates, as the manifest says it: its cache, its languages, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The KV cache of a decoder: L × 2 arrays (slots, K, T, D) of float32.

    Layer i's are `past_key_values.{i}.key` and `.value`, written in place as `present.{i}.…`.
    """

    layers: int
    heads: int  # K
    head_size: int  # D


class Place(StrEnum):
    """Where a language's token stands."""

    BEFORE = "before"  # before the source's tokens
    AFTER = "after"  # after the source's tokens, its end included
    START = "start"  # in the place of the token that the decoder starts with
    FORCED = "forced"  # the first token that the decoder must choose
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Languages:
    """The languages of a model: codes → token ids, where they stand, and which are the defaults."""

    ids: Mapping[str, int]
    source_place: Place
    target_place: Place
    source: str | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class ShortlistSpec:
    """The file of what sources may be answered with (docs/decisions/0015-shortlist.md).

    It holds `always` ids that are always allowed, then for `tokens` tokens of the source where
    theirs begin.
    """

    file: str
    always: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Seq2Seq:
    """What an encoder-decoder has beside a decoder (docs/decisions/0013-seq2seq.md).

    The decoder starts with `start_id`; `prefixes` are what stands before a text, by the task's
    name in the checkpoint ("translation_en_to_de"); `task_settings` are what it states for a task
    in the place of `Generation.defaults`.
    """

    start_id: int | None
    languages: Languages | None = None
    prefixes: Mapping[str, str] | None = None
    shortlist: ShortlistSpec | None = None
    task_settings: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """How a decoder generates; `context` is the most tokens that prompt and completion may have.

    `defaults` are the checkpoint's sampling settings, in transformers' names; `chat_template` is
    the file of the jinja template; `seq2seq` is set where an encoder reads the source.
    """

    context: int
    vocabulary: int  # V, the width of the logits
    cache: CacheSpec
    stop_ids: tuple[int, ...]
    bos_id: int | None = None
    chat_template: str | None = None
    defaults: Mapping[str, Any] | None = None
    seq2seq: Seq2Seq | None = None

    @property
    def files(self) -> set[str]:
        """The bundle's files that are read to generate."""
        shortlist = self.seq2seq.shortlist if self.seq2seq else None
        named = {self.chat_template, shortlist.file if shortlist else None}
        return {name for name in named if name is not None}
