"""The tokens of an answer → its text as it comes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from lmonnx.runtime.generate.request import Chunk
from lmonnx.runtime.generate.stopping import LENGTH, STOP
from lmonnx.runtime.pipelines.sentences import joint
from lmonnx.runtime.pipelines.source_parts import Part

Decode = Callable[[Sequence[int]], str]
# The last tokens may still change the text before them: the bytes of one character, a space that
# is cleaned away.
_HELD = 4


def spoken(
    parts: Sequence[Part],
    streams: Sequence[Iterator[int]],
    *,
    decode: Decode,
    stops: Collection[int],
) -> Iterator[Chunk]:
    """Yield the answers to a text's parts as one; the pieces joined are what a call gives.

    Args:
        parts: In their order.
        streams: The tokens of each one's answer as they come; none where it is blank.
        decode: Ids → text, special tokens skipped.
        stops: The ids that end an answer.
    """
    joiner, reason = _Joiner(), STOP
    for part, stream in zip(parts, streams, strict=True):
        text, last = GrowingText(decode), None
        for last in stream:
            piece = text.finish(last) if last in stops else text.push(last)
            yield Chunk(joiner.add(piece), (last,))
        if last is not None and last not in stops:
            reason = LENGTH
            yield Chunk(joiner.add(text.finish()), ())
        joiner.end(part.after)
    yield Chunk(joiner.between or "", (), reason)


class GrowingText:
    """The text of a growing row of tokens, a few tokens late; the pieces joined are all of it."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._shown = ""

    def push(self, token: int) -> str:
        """Take a token; return what is now certain."""
        self._tokens.append(token)
        earlier = self._decode(self._tokens[:-_HELD])
        return self._show(_common(earlier, self._decode(self._tokens)))

    def finish(self, *last: int) -> str:
        """Take what comes last, if there is any more; return the rest."""
        self._tokens += last
        return self._show(self._decode(self._tokens))

    def _show(self, text: str) -> str:
        if not text.startswith(self._shown):
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new


def _common(one: str, other: str) -> str:
    """Return what two texts begin with."""
    if other.startswith(one):
        return one
    pairs = zip(one, other, strict=False)
    return one[: next((at for at, (a, b) in enumerate(pairs) if a != b), len(other))]


class _Joiner:
    """What stands between answers whose text comes in pieces, as `joined_answers` has it.

    `between` is what comes before the next piece; None is what its script wants.
    """

    def __init__(self) -> None:
        self.between: str | None = ""
        self._last, self._said = "", False

    def add(self, piece: str) -> str:
        """Return a piece with what stands before it."""
        if not piece:
            return ""
        between = joint(self._last, piece) if self.between is None else self.between
        self._last, self.between, self._said = piece[-1], "", True
        return between + piece

    def end(self, after: str | None) -> None:
        """End an answer, which `after` comes behind."""
        if self._said:
            self.between = after
        elif after is not None:
            self.between = (self.between or "") + after
        self._said = False
