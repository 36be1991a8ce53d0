"""The frozen encoder-decoder, as it is and with other fields in its manifest."""

from __future__ import annotations

from itertools import count

import pytest

import lmonnx
from tests.unit.runtime.generate.tiny_seq2seq import FOLDER, variant


@pytest.fixture(scope="module")
def tiny():
    """Give the encoder-decoder as a translator of no languages: at most 96 bytes, 24 new ones."""
    with lmonnx.load(FOLDER, threads=1) as model:
        yield model


@pytest.fixture
def load(tmp_path):
    """Give a function that loads a copy with other fields of `generation`, and maybe a task."""
    loaded, numbers = [], count()

    def make(**changes):
        path = variant(tmp_path / str(next(numbers)), **changes)
        loaded.append(lmonnx.load(path, threads=1))
        return loaded[-1]

    yield make
    for model in loaded:
        model.close()
