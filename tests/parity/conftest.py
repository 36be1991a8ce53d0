"""What several modules of live comparisons need."""

import warnings

import pytest


@pytest.fixture(scope="module")
def quiet():
    """Run torch on one thread, so that its sums are always the same, and leave out its warnings."""
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
