"""Keys of sources: they come, go and change places, and nothing of another is left behind."""

import numpy as np
import pytest

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.runtime.generate.source_keys import SourceKeys

SPEC = CacheSpec(2, 2, 3)  # layers, heads, size


@pytest.fixture
def keys():
    return SourceKeys(SPEC, 6)


def add(keys, *sources):
    """Take in (length, value) sources, padded with NaN as no encoder would."""
    longest = max(length for length, _ in sources) + 1
    arrays = np.full((4, len(sources), 2, longest, 3), np.nan, np.float32)
    for place, (length, value) in enumerate(sources):
        arrays[:, place, :, : longest - 1] = 0
        arrays[:, place, :, :length] = value
    keys.add(arrays, np.array([length for length, _ in sources], np.int32))


def held(keys):
    """Return (length, value) of each source; whatever else is there must be finite."""
    assert np.isfinite(keys.held.arrays).all()
    found = []
    for place, length in enumerate(keys.held.lengths.tolist()):
        (value,) = np.unique(keys.held.arrays[:, place, :, :length])
        found.append((length, float(value)))
    return found


def test_sources_stand_behind_each_other_in_one_piece_of_memory(keys):
    add(keys, (2, 1.0))
    add(keys, (3, 2.0), (1, 3.0))
    assert held(keys) == [(2, 1.0), (3, 2.0), (1, 3.0)] and keys.padded_length == 3
    assert keys.since(1).lengths.tolist() == [3, 1]
    assert np.shares_memory(keys.since(1).arrays, keys.held.arrays)
    assert all(array.flags.c_contiguous for array in keys.since(1).arrays)


def test_the_last_take_the_places_of_those_that_go(keys):
    add(keys, (3, 1.0), (3, 2.0), (2, 3.0))
    keys.keep([2], [0], 2)
    assert held(keys) == [(2, 3.0), (3, 2.0)]
    keys.keep([], [], 1)
    assert held(keys) == [(2, 3.0)]


def test_padding_shrinks_when_short_sources_follow_long_ones(keys):
    add(keys, (20, 1.0), (4, 2.0))
    keys.keep([1], [0], 1)
    add(keys, (5, 3.0))
    assert keys.padded_length == 5 and held(keys) == [(4, 2.0), (5, 3.0)]
    add(keys, (4, 4.0))  # no shorter by much: nothing is moved
    assert keys.padded_length == 5


def test_a_source_that_gave_nan_leaves_none_behind(keys):
    add(keys, (8, np.nan), (8, 1.0))
    keys.keep([1], [0], 1)
    add(keys, (7, 2.0))
    assert held(keys) == [(8, 1.0), (7, 2.0)]


def test_nothing_is_left_after_clearing(keys):
    add(keys, (8, 1.0))
    keys.clear()
    assert len(keys.held) == keys.padded_length == 0
