"""The line that encoder-decoders are timed over: one JSON object a line, like protocol.py's.

    {"do": "prepare", "order": {"model": "…", "cache": "…", "threads": 2}}
        → {"versions": {…}, "variants": ["…"]}
    {"do": "round", "variant": "…", "texts": ["…"], "beams": 4, "new": 32}
        → {"seconds": s, "answers": ["…"], "peak_mib": m}

`new` is how many tokens every text is answered with; null leaves it to the model. Tokenizing is
part of the time. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from generation import peak_mib
from protocol import versions


class Translator(ABC):
    """A system that writes a text for each text."""

    @abstractmethod
    def prepare(self, model: str, cache: str, threads: int) -> Sequence[str]:
        """Find or make what is needed; return the names of the ways to run it."""

    @abstractmethod
    def translate(self, variant: str, texts: list[str], beams: int, new: int | None) -> list[str]:
        """Return an answer to each text; this is what is timed."""


def sorted_batches(
    texts: Sequence[str], size: int, answer: Callable[[list[str]], Sequence[str]]
) -> list[str]:
    """Answer texts in batches of like lengths; return the answers in the texts' order."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = {}
    for start in range(0, len(texts), size):
        rows = order[start : start + size]
        found |= dict(zip(rows, answer([texts[row] for row in rows]), strict=True))
    return [found[row] for row in range(len(texts))]


def serve(translator: Translator) -> None:
    """Carry out what standard input asks, until it ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the lines
    for line in sys.stdin:
        request = json.loads(line)
        do = request.pop("do")
        try:
            reply = _prepared(translator, request) if do == "prepare" else _run(translator, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side must hear of it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


def _prepared(translator: Translator, request: dict[str, Any]) -> dict[str, Any]:
    variants = list(translator.prepare(**request["order"]))
    return {"versions": versions(), "variants": variants}


def _run(translator: Translator, request: dict[str, Any]) -> dict[str, Any]:
    start = perf_counter()
    answers = translator.translate(**request)
    seconds = perf_counter() - start
    return {"seconds": round(seconds, 6), "answers": answers, "peak_mib": peak_mib()}
