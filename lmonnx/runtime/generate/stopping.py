"""When a completion ends, and how much of its text may be shown by then."""

from __future__ import annotations

from collections.abc import Sequence

from lmonnx.runtime.generate.params import SamplingParams

STOP = "stop"
LENGTH = "length"


def ids_that_stop(params: SamplingParams, model_ids: Sequence[int]) -> tuple[int, ...]:
    """Return the ids that end a completion: the model's, unless ignored, and the request's own."""
    return tuple(dict.fromkeys((*(() if params.ignore_eos else model_ids), *params.stop_ids)))


class Stopping:
    """The end of one completion, by a stop id, a stop string or its length.

    For each token: `shown = stopping.push(token, text)`, where `text` is what the detokenizer
    gave, "" for a token that `ends`. Once `finish_reason` is set: `shown += stopping.finish(…)`
    with the detokenizer's last text. A stop string ends a completion of any length, also one
    shorter than `min_new_tokens`, as in transformers; neither it nor what follows is shown.
    """

    def __init__(self, params: SamplingParams, *, stop_ids: Sequence[int]) -> None:
        """Take the stop ids, which are `ids_that_stop`'s."""
        self.finish_reason: str | None = None
        self._stop_ids = frozenset(stop_ids)
        self._stops, self._most = params.stop, params.limit
        self._longest = max(map(len, params.stop), default=0)
        self._held = ""
        self._tokens = 0
        self._met = False

    def ends(self, token: int) -> bool:
        """Whether `token` is a stop id, whose text is no part of the completion."""
        return token in self._stop_ids

    def push(self, token: int, text: str) -> str:
        """Take a token and its text; return what may now be shown."""
        self._tokens += 1
        shown = self._take(text)
        if self._met or self.ends(token):
            self.finish_reason = STOP
        elif self._tokens >= self._most:
            self.finish_reason = LENGTH
        return shown

    def finish(self, text: str = "") -> str:
        """Take the last text; return it with what was held back, nothing after a stop string."""
        shown = self._take(text)
        if self._met:
            self.finish_reason = STOP
        held, self._held = self._held, ""
        return shown + held

    def _take(self, text: str) -> str:
        """Return what of the held and the new text can no longer begin a stop string."""
        if self._met:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(s), at) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            self._met, self._held = True, ""
            return text[: min(found)[1]]  # what ends first, however the tokens cut the text
        cut = self._may_begin(text)
        self._held = text[cut:]
        return text[:cut]

    def _may_begin(self, text: str) -> int:
        """Return where the longest end of `text` starts that a stop string starts with."""
        first = max(0, len(text) - self._longest + 1)
        for start in range(first, len(text)):
            if any(stop.startswith(text[start:]) for stop in self._stops):
                return start
        return len(text)
