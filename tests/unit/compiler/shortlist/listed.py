"""Bundles with a shortlist that a test has made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import draft_at
from lmonnx.compiler.shortlist.written import write_listed_pair
from lmonnx.runtime.generate.shortlist import Shortlist


def made_up(
    always: Sequence[int], lists: Mapping[int, Sequence[int]], vocabulary: int
) -> Shortlist:
    """Return a map of some source tokens; the others allow nothing."""
    rows = [sorted(lists.get(token, ())) for token in range(max(lists, default=-1) + 1)]
    starts = np.cumsum([0, *map(len, rows)])
    flat = np.array([index for row in rows for index in row], np.int64)
    return Shortlist(np.array(sorted(always), np.int64), starts, flat, vocabulary)


def write(source: Path, target: Path, shortlist: Shortlist) -> Bundle:
    """Write a bundle again, with a map."""
    bundle = Bundle.open(source, verify=False)
    with draft_at(target, source=source) as draft:
        write_listed_pair(bundle, draft, shortlist)
    return Bundle.open(target)
