"""Which ids a source may be answered with, the list of a batch, and what its logits stand for.

Decision 15: a list holds what any source of the batch may say; a bias of -inf keeps every source to
its own ids, so that an answer does not depend on its company.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import ShortlistSpec
from lmonnx.errors import BundleError
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.numerics import Floats

INPUTS = ("shortlist", "shortlist_bias")
NUMBERS = np.dtype("<i4")  # of the file


class Columns:
    """Which token each column of some logits is of: the one of its own number."""

    def of(self, ids: tuple[int, ...]) -> Sequence[int] | Ids:
        """Return the columns of some tokens; those that have none are left out."""
        return ids

    def at(self, ids: Ids) -> Ids:
        """Return the column of each token; every one has one."""
        return ids

    def tokens(self, columns: Ids) -> Ids:
        """Return the token of each column."""
        return columns

    def take(self, rows: Floats, ids: tuple[int, ...]) -> Floats:
        """Return what rows (…, N) have for B tokens, -inf without a column: (…, B)."""
        taken: Floats = rows[..., ids]
        return taken

    def whole(self, rows: Floats) -> Floats:
        """Return rows (…, N) with a column for each token of the vocabulary: (…, V)."""
        return rows


class ListedColumns(Columns):
    """A column for each token of an ascending list, (N,)."""

    def __init__(self, ids: Ids, vocabulary: int) -> None:
        self._ids, self._vocabulary = ids, vocabulary

    def of(self, ids: tuple[int, ...]) -> Sequence[int] | Ids:
        """Return the columns of some tokens; those that have none are left out."""
        columns, is_there = self._found(ids)
        return columns[is_there]

    def at(self, ids: Ids) -> Ids:
        """Return the column of each token; every one has one."""
        return np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)

    def tokens(self, columns: Ids) -> Ids:
        """Return the token of each column."""
        found: Ids = self._ids[columns]
        return found

    def take(self, rows: Floats, ids: tuple[int, ...]) -> Floats:
        """Return what rows (…, N) have for B tokens, -inf without a column: (…, B)."""
        columns, is_there = self._found(ids)
        taken: Floats = np.where(is_there, rows[..., columns], np.float32(-np.inf))
        return taken

    def whole(self, rows: Floats) -> Floats:
        """Return rows (…, N) with a column for each token of the vocabulary: (…, V)."""
        made = np.full((*rows.shape[:-1], self._vocabulary), -np.inf, rows.dtype)
        made[..., self._ids] = rows
        return made

    def _found(self, ids: tuple[int, ...]) -> tuple[Ids, NDArray[np.bool_]]:
        wanted = np.array(ids, np.int64)
        columns = self.at(wanted)
        return columns, self._ids[columns] == wanted


ALL_COLUMNS = Columns()


@dataclass(frozen=True, slots=True)
class Shortlist:
    """A bundle's map: token t of a source allows `allowed[starts[t] : starts[t + 1]]`.

    `always` are allowed whatever the source is; all are ids below `vocabulary`.
    """

    always: Ids
    starts: Ids
    allowed: Ids
    vocabulary: int

    @classmethod
    def open(cls, bundle: Bundle, spec: ShortlistSpec, vocabulary: int) -> Self:
        """Read a bundle's file: int32 of the low byte first, the three parts in turn.

        Raises:
            BundleError: It is not of the sizes that the manifest says, or holds what is no id.
        """
        path = bundle.file(spec.file)
        try:
            numbers = np.fromfile(path, NUMBERS).astype(np.int64)
            size = path.stat().st_size
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror})") from error
        always, tokens = spec.always, spec.tokens
        if size % NUMBERS.itemsize or not (
            0 < always <= vocabulary and tokens >= 0 and always + tokens + 1 <= len(numbers)
        ):
            raise BundleError(f"{path} has not the sizes that the manifest says; make it again")
        made = cls(
            numbers[:always],
            numbers[always : always + tokens + 1],
            numbers[always + tokens + 1 :],
            vocabulary,
        )
        made._check(str(path))
        return made

    def own(self, source: Iterable[int]) -> Ids:
        """Return the ids that the tokens of a source allow, some of them more than once."""
        starts, known = self.starts, len(self.starts) - 1
        parts = [self.allowed[starts[t] : starts[t + 1]] for t in set(source) if t < known]
        return np.concatenate([*parts, self.always[:0]])

    def _check(self, where: str) -> None:
        ids = np.concatenate([self.always, self.allowed])
        starts = self.starts
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise BundleError(f"{where} holds an id that is none of {self.vocabulary}")
        if starts[0] or starts[-1] != len(self.allowed) or (np.diff(starts) < 0).any():
            raise BundleError(f"{where} has parts that begin where they cannot; make it again")


@dataclass(frozen=True, slots=True)
class Listed:
    """What the decoder reads for G sources: `ids` (N,), ascending, and `bias` (G, 1, N)."""

    ids: Ids
    bias: Floats


class BatchList:
    """The sources that are decoded together, and the list of what they may be answered with.

    Places are as in `SourceKeys`: sources come at the end and go from anywhere. `ids` are what the
    list holds, ascending; where it changes, another array takes its place.
    """

    def __init__(self, shortlist: Shortlist, most: int) -> None:
        """Hold at most so many sources."""
        self._shortlist = shortlist
        self._marks = np.zeros((most, shortlist.vocabulary), np.bool_)  # what each is allowed
        self._count = self._least = 0
        self._build()

    def clear(self) -> None:
        """Let go of all."""
        self._count = self._least = 0
        self._build()

    def add(self, sources: Iterable[Sequence[int]], *, shared: Sequence[int], least: int) -> None:
        """Take sources in behind the others.

        Args:
            sources: Their tokens.
            shared: Ids that they are allowed beside their own and what always is.
            least: How many ids the list must have, allowed or not.
        """
        known = [index for index in shared if index < self._shortlist.vocabulary]
        self._least = least
        for source in sources:
            marks = self._marks[self._count]
            marks[:] = False
            marks[self._shortlist.always] = marks[known] = True
            marks[self._shortlist.own(source)] = True
            self._count += 1
        self._build()

    def keep(self, origins: Sequence[int], places: Sequence[int], count: int) -> None:
        """Put some sources in the place of others, and let go of all from `count` on."""
        if len(origins):
            self._marks[places] = self._marks[origins]
        self._count = count
        if 2 * count <= len(self._bias):
            self._build()
        elif len(origins):
            self._bias[places] = self._bias[origins]

    def part(self, start: int, count: int) -> Listed:
        """Return what the decoder reads for some sources; good until sources come or go."""
        return Listed(self.ids, self._bias[start : start + count])

    def columns(self) -> Columns:
        """Return what the logits' columns stand for."""
        return ListedColumns(self.ids, self._shortlist.vocabulary)

    def _build(self) -> None:
        held = self._marks[: self._count]
        listed = np.bitwise_or.reduce(held, axis=0)
        if (lacking := self._least - int(listed.sum())) > 0:
            listed[np.flatnonzero(~listed)[:lacking]] = True
        self.ids = np.flatnonzero(listed)
        allowed = held.take(self.ids, axis=1)[:, None]
        self._bias = np.where(allowed, np.float32(0), np.float32(-np.inf))


def open_shortlist(bundle: Bundle) -> Shortlist | None:
    """Return a bundle's map, if it has one.

    Raises:
        BundleError: It is damaged.
    """
    generation = bundle.manifest.generation
    spec = generation.seq2seq.shortlist if generation and generation.seq2seq else None
    if generation is None or spec is None:
        return None
    return Shortlist.open(bundle, spec, generation.vocabulary)
