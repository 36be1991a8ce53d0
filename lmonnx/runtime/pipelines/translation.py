"""Texts → translations."""

from __future__ import annotations

from typing import ClassVar

from lmonnx.runtime.pipelines.source_parts import Split
from lmonnx.runtime.pipelines.text_to_text import TextToText


class Translator(TextToText):
    """Translates; lines stay lines, and one that is too long is read a sentence at a time."""

    PREFIX: ClassVar[str | None] = "translation"
    SPLIT: ClassVar[Split] = Split.AUTO
