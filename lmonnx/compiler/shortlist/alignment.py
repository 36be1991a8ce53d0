"""Pairs of sources and targets → which target tokens a source token is translated by: IBM model 1.

Source:
    Brown et al. 1993, "The Mathematics of Statistical Machine Translation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.quantize.pairs import Pair
from lmonnx.progress import Progress, track

MOST_LINKS = 2**24  # of tokens that could be translations of each other: 1 GiB of numpy's
ITERATIONS = 5

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Translations:
    """P(target | source) of tokens that stood together, each (M,), in so many pairs of texts."""

    sources: Ids
    targets: Ids
    probabilities: NDArray[np.float64]
    pairs: int

    def likeliest(self, count: int) -> tuple[Ids, Ids]:
        """Return the `count` likeliest targets of every source, ascending: sources, targets."""
        order = np.lexsort((self.targets, -self.probabilities, self.sources))
        sources = self.sources[order]
        begins = np.searchsorted(sources, sources)  # where each source's first stands
        best = np.arange(len(sources)) - begins < count
        sources, targets = sources[best], self.targets[order][best]
        ascending = np.lexsort((targets, sources))
        return sources[ascending], targets[ascending]


def align(pairs: Sequence[Pair], *, progress: Progress) -> Translations:
    """Learn from pairs, of the first of them that have together at most `MOST_LINKS`.

    Every source has beside its tokens a word that is nowhere, as the model has it: what stands in
    every target is its translation, and does not crowd out that of rare words.
    """
    used = _used(pairs)
    nowhere = 1 + max((int(pair.source.max()) for pair in used), default=0)
    sources, targets, places = _links(used, nowhere)
    width = 1 + int(targets.max(initial=0))
    keys, link = np.unique(sources * width + targets, return_inverse=True)
    of_source, tokens = keys // width, int(places.max(initial=-1)) + 1
    probabilities = np.ones(len(keys))
    for _ in track(range(ITERATIONS), "aligning", progress):
        weights = probabilities[link]
        weights /= np.bincount(places, weights, tokens)[places]
        counts = np.bincount(link, weights, len(keys))
        probabilities = counts / np.bincount(of_source, counts)[of_source]
    real = of_source != nowhere
    return Translations(of_source[real], keys[real] % width, probabilities[real], len(used))


def _used(pairs: Sequence[Pair]) -> Sequence[Pair]:
    sizes = np.cumsum([(len(pair.source) + 1) * len(pair.target) for pair in pairs])
    return pairs[: max(1, int(np.searchsorted(sizes, MOST_LINKS)))]


def _links(pairs: Sequence[Pair], nowhere: int) -> tuple[Ids, Ids, Ids]:
    """Return for every link its source, its target, and the number of the target's place."""
    sources, targets, places, count = [], [], [], 0
    for pair in pairs:
        words = np.append(np.unique(pair.source), nowhere)
        length = len(pair.target)
        sources.append(np.tile(words, length))
        targets.append(np.repeat(pair.target, len(words)))
        places.append(np.repeat(np.arange(count, count + length), len(words)))
        count += length
    return np.concatenate(sources), np.concatenate(targets), np.concatenate(places)
