"""Texts → summaries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lmonnx.runtime.pipelines.source_parts import Cutter, Part, Split
from lmonnx.runtime.pipelines.text_to_text import TextToText


class Summarizer(TextToText):
    """Summarizes; a text that is too long is read in windows, whose summaries are joined."""

    PREFIX: ClassVar[str | None] = "summarization"
    SPLIT: ClassVar[Split] = Split.AUTO
    SPLITS: ClassVar[frozenset[Split]] = frozenset(Split) - {Split.SENTENCES}

    def cut(self, texts: Sequence[str], first: int, split: Split, cutter: Cutter) -> list[Part]:
        if split is Split.AUTO:
            return cutter.by_window(texts, first)
        return super().cut(texts, first, split, cutter)
