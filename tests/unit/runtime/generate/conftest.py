"""A decoder of two layers, frozen; a test that measures company or reuse loads its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import lmonnx

TINY = Path(__file__).parent / "tiny-decoder"


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return TINY


@pytest.fixture(scope="module")
def tiny():
    """Give the decoder with eight slots, shared by a module's tests."""
    with lmonnx.load(TINY, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def solo():
    """Give the decoder with one slot, whose every request runs alone."""
    with lmonnx.load(TINY, threads=1, slots=1) as model:
        yield model


@pytest.fixture
def load():
    """Give a function that loads the decoder anew; what it loaded is closed afterwards."""
    loaded = []

    def make(**options):
        loaded.append(lmonnx.load(TINY, threads=1, **options))
        return loaded[-1]

    yield make
    for model in loaded:
        model.close()
