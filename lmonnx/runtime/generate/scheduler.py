"""Who runs next: jobs wait in line, prompts are read in turn, some tokens a step."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import gcd

from lmonnx.errors import InputError
from lmonnx.runtime.generate.request import Job
from lmonnx.runtime.generate.slots import Slots, common_prefix

# Tokens of prompts that are read in a step: at most, and for each that waits to be read while a
# sequence waits for its next token; a piece of fewer counts for the least, as it takes as long.
ALONE, IN_COMPANY, LEAST = 512, 64, 16
# A call that gives the logits of many tokens gives at most 64 MiB of them.
MOST_LOGITS = 2**24
# Attention reads a piece in blocks of twice a head's size, or of what fits into the cache of the
# CPU: of multiples of this, if it divides the first.
BLOCK = 16
# A job waits for a prompt that is being read if it would save so many tokens.
WORTH_WAITING = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens of a job's prompt to run now, and the logits of how many of the last to keep."""

    job: Job
    start: int
    stop: int
    keep: int

    @property
    def is_last(self) -> bool:
        """Whether the prompt ends here."""
        return self.stop == len(self.job.prompt)


class Scheduler:
    """The line of jobs: first come, first served."""

    def __init__(
        self, slots: Slots, *, count: int, context: int, vocabulary: int, head_size: int
    ) -> None:
        self._slots = slots
        self._block = gcd(BLOCK, 2 * head_size)
        self._count, self._context = count, context
        self._most_kept = max(1, MOST_LOGITS // vocabulary)
        self.waiting: deque[Job] = deque()
        self.reading: deque[Job] = deque()  # their slots are taken, their prompts not yet read
        self.ready: list[Job] = []  # their slots are taken, their prompts need no reading

    def check(self, job: Job) -> None:
        """Refuse a job that could never run.

        Raises:
            InputError: It needs more tokens or more slots than there are; the message says both.
        """
        length = len(job.prompt)
        if not length:
            raise InputError("the prompt has no tokens; give some text")
        if length + min(job.room, 1) > self._context:
            raise InputError(
                f"the prompt has {length} tokens, the context {self._context}; "
                "shorten it, or load the bundle with a larger `context`, if the model takes one"
            )
        if length + job.room > self._context:
            raise InputError(
                f"{length} tokens of prompt and max_new_tokens {job.room} are more than the "
                f"context of {self._context}; at most {self._context - length} new ones fit"
            )
        if job.width > self._count:
            raise InputError(
                f"num_beams is {job.width}, the cache has {self._count} slots; "
                f"load the bundle with slots={job.width}, or ask for fewer beams"
            )

    def admit(self) -> None:
        """Give slots to the first in line, who are `reading` or `ready` from then on."""
        while self.waiting and self.waiting[0].width <= self._slots.idle:
            job = self.waiting[0]
            if self._should_wait(job):
                break
            is_known = job.reads_from == len(job.prompt) - 1 and self._slots.ends(job.prompt)
            job.slots = [self._slots.claim(job.prompt if is_known else _reusable(job))]
            job.slots += [self._slots.claim(()) for _ in range(job.width - 1)]
            if is_known or len(job.prompt) == job.width == 1:
                self.ready.append(job)
            else:
                self.reading.append(job)
            self.waiting.popleft()  # last: whoever is in no line would be waited for without end

    def budget(self) -> int:
        """Return how many tokens of prompts to read in this step.

        Both sides wait for each other, so the more there are of one the longer the other does.
        """
        live = self._slots.live
        return min(ALONE, IN_COMPANY * -(-len(self.reading) // live)) if live else ALONE

    def piece(self, budget: int) -> Piece | None:
        """Return what to read next of so many tokens, None where every prompt is read."""
        if not self.reading:
            return None
        job = self.reading[0]
        start, size = len(job.slots[0].tokens), budget
        if job.reads_from < len(job.prompt) - 1:
            size = min(size, self._most_kept)
        stop = min(start + size, len(job.prompt))
        if stop == len(job.prompt) - 1:
            stop += 1
        if stop - start > 2 and (stop - start) % self._block == 1:
            stop -= 2  # no row alone, nor in a block of attention: see `_reusable`
        return Piece(job, start, stop, max(0, stop - max(start, job.reads_from)))

    def _should_wait(self, job: Job) -> bool:
        """Say whether a prompt that is being read begins alike: its rows are copied when it is."""
        hidden = _reusable(job)
        later = max((common_prefix(other.prompt, hidden) for other in self.reading), default=0)
        return later - self._slots.shared(hidden) >= WORTH_WAITING


def _reusable(job: Job) -> list[int]:
    """Return the tokens whose rows may come from another prompt.

    Two at least are left to be read: a row that attention reads alone differs in its last bits.
    """
    return job.prompt[: max(0, min(job.reads_from, len(job.prompt) - 2))]
