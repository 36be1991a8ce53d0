"""Guess with a smaller model of the same vocabulary.

Source:
    Leviathan et al., arXiv:2211.17192, with the larger model's own draw in the place of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import InputError
from lmonnx.runtime.generate.capacity import Capacity, make_cache
from lmonnx.runtime.generate.decoder import Decoder, check_cache, open_sessions
from lmonnx.runtime.generate.drafting import Drafter
from lmonnx.runtime.generate.slots import common_prefix
from lmonnx.runtime.session import SessionConfig

MOST = 8  # tokens of a draft
CHUNK = 512


class DraftModel:
    """A decoder with one slot, whose greedy tokens are the guesses; the engine's thread runs it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._known: list[int] = []

    def guess(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return the `limit` tokens that this model would write; fewer where its context ends."""
        room = self._decoder.cache.length - len(tokens)
        found: list[int] = []
        pending = self._pending(tokens)
        for _ in range(min(limit, room)):
            found.append(self._next(pending))
            pending = found[-1:]
        return found

    def _pending(self, tokens: Sequence[int]) -> list[int]:
        """Run all tokens that are not known but for the last CHUNK; return those."""
        shared = min(common_prefix(self._known, tokens), len(tokens) - 1)
        self._known = list(tokens[:shared])
        room = self._decoder.cache.length
        while len(tokens) <= room and len(tokens) - len(self._known) > CHUNK:
            self._run(tokens[len(self._known) : len(self._known) + CHUNK], keep=0)
        return list(tokens[len(self._known) :])

    def _next(self, pending: Sequence[int]) -> int:
        if len(pending) == 1:
            row = self._decoder.step(pending, [len(self._known)])[0]
            self._known += pending
            return int(row.argmax())
        return self._run(pending, keep=1)

    def _run(self, tokens: Sequence[int], *, keep: int) -> int:
        logits = self._decoder.extend(0, tokens, len(self._known), keep=keep, company=None)
        self._known += tokens
        return int(logits[0].argmax()) if keep else -1


class Drafts(Drafter):
    """One request's use of a draft model."""

    def __init__(self, model: DraftModel) -> None:
        super().__init__(MOST)
        self._model = model

    def guess(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return what the model would write."""
        return self._model.guess(tokens, limit)


def open_draft(
    bundle: Bundle, config: SessionConfig, *, target: Bundle, context: int
) -> DraftModel:
    """Load a bundle that guesses for `target`, with a cache for as many tokens as it can use.

    Raises:
        InputError: Their tokenizers are not the same file.
        BundleError: It is no decoder, or is damaged.
    """
    generation, guided = check_cache(bundle), check_cache(target)
    theirs, ours = (b.file(b.manifest.text.source.file) for b in (bundle, target))
    if generation.vocabulary != guided.vocabulary or theirs.read_bytes() != ours.read_bytes():
        raise InputError(
            f"{bundle.path} has another vocabulary than {target.path}; "
            "a draft must have the same tokenizer"
        )
    cache = make_cache(generation, Capacity(min(context, generation.context), slots=1))
    sessions = open_sessions(bundle, config)
    return DraftModel(Decoder(sessions, cache, vocabulary=generation.vocabulary))
