"""The line that decoders are timed over: one JSON object a line, like protocol.py's.

    {"do": "prepare", "order": {"model": "…", "threads": 2}}     → {"versions": {…}}
    {"do": "round", "prompts": [[…]], "new": 64}                 → {"prefill": s, "decode": s}

A round reads the prompts, greedily writes `new` tokens after each and gives the seconds until every
prompt has its first token, and those from there to the last. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from protocol import versions


class Decoder(ABC):
    """A system that continues prompts of token ids."""

    @abstractmethod
    def prepare(self, model: str, threads: int) -> None:
        """Load the model."""

    @abstractmethod
    def round(self, prompts: list[list[int]], new: int) -> tuple[float, float]:
        """Return the seconds of prefill and of decoding; no prompt was read before."""


def serve(decoder: Decoder) -> None:
    """Carry out what standard input asks, until it ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print must not get between the lines
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                decoder.prepare(**request["order"])
                reply: dict[str, Any] = {"versions": versions()}
            else:
                prefill, decode = decoder.round(request["prompts"], request["new"])
                reply = {"prefill": prefill, "decode": decode, "peak_mib": peak_mib()}
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side must hear of it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


def peak_mib() -> float:
    """Return the most memory this process has held."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(int(next(x for x in lines if x.startswith("VmHWM:")).split()[1]) / 1024, 1)
