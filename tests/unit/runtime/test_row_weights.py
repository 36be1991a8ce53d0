"""int8 by rows that loading makes of blocks: the numbers, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from lmonnx.bundle.manifest import RowWeights, Span
from lmonnx.errors import BundleError
from lmonnx.runtime.row_weights import all_by_rows


def written(folder, inputs, outputs, block_size, *, zeros=True, factors=True, seed=0):
    """Write blocks of random integers; return their description and the floats, (K, N)."""
    random, parts = np.random.default_rng(seed), bytearray()

    def put(array):
        start = len(parts)
        parts.extend(array.tobytes())
        return Span("weights", start)

    blocks = -(-inputs // block_size)
    integers = random.integers(0, 16, (outputs, blocks, block_size), np.uint8)
    middles = random.integers(0, 16, (outputs, blocks), np.uint8)
    scales = random.uniform(-1, 1, (outputs, blocks)).astype(np.float32)
    factor = random.uniform(0.5, 2, inputs).astype(np.float32)
    centre = middles[..., None].astype(float) if zeros else 8.0
    floats = ((integers - centre) * scales[..., None]).reshape(outputs, -1)[:, :inputs].T
    floats = floats * (factor[:, None] if factors else 1)
    steps = (np.abs(floats).max(axis=0) / 63).astype(np.float32)
    even = np.pad(middles, ((0, 0), (0, blocks % 2)))
    put(np.zeros(3, np.uint8))  # nothing need be aligned
    made = RowWeights(
        "w",
        (inputs, outputs),
        block_size,
        blocks=put(integers[..., 0::2] | integers[..., 1::2] << 4),
        scales=put(scales),
        steps=put(steps),
        zeros=put(even[:, 0::2] | even[:, 1::2] << 4) if zeros else None,
        factors=put(factor) if factors else None,
    )
    (folder / "weights").write_bytes(parts)
    return made, floats / steps


@pytest.mark.parametrize(
    ("inputs", "outputs", "block_size"),
    [(32, 1, 32), (96, 5, 32), (100, 7, 32), (192, 3, 64), (300, 4, 128), (64, 5000, 32)],
)
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("factors", [True, False])
def test_the_integers_are_the_nearest(tmp_path, inputs, outputs, block_size, zeros, factors):
    made, wanted = written(tmp_path, inputs, outputs, block_size, zeros=zeros, factors=factors)
    found = all_by_rows(tmp_path, [made], 1)["w"]
    assert found.dtype == np.int8 and found.shape == (inputs, outputs)
    assert np.abs(found).max() == 63
    assert np.abs(found - wanted).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"blocks": Span("weights", 1 << 20)}, "ends before the weights"),
        ({"blocks": Span("weights", -1)}, "ends before the weights"),
        ({"scales": Span("weights", 1 << 62)}, "ends before the weights"),
        ({"steps": Span("elsewhere", 0)}, "cannot be read"),
        ({"shape": (1 << 40, 1 << 40)}, "ends before the weights"),
        ({"shape": (0, 64)}, "no matrix of blocks"),
        ({"shape": (64,)}, "no matrix of blocks"),
        ({"block_size": 0}, "no matrix of blocks"),
        ({"name": "w"}, "two weights of one name"),
        ({"steps": Span("zeros", 0)}, "no numbers"),
        ({"scales": Span("empty", 0)}, "cannot be read"),
    ],
)
def test_a_description_that_fits_no_file_is_refused(tmp_path, changes, match):
    made, _ = written(tmp_path, 64, 64, 32)
    (tmp_path / "zeros").write_bytes(bytes(1 << 12))
    (tmp_path / "empty").touch()
    with pytest.raises(BundleError, match=match):
        all_by_rows(tmp_path, [made, replace(made, **{"name": "v"} | changes)], 2)


def test_a_file_is_opened_once_however_many_weights_are_made_of_it(tmp_path):
    resource = pytest.importorskip("resource")
    made, _ = written(tmp_path, 64, 8, 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        many = [replace(made, name=str(index)) for index in range(400)]
        assert len(all_by_rows(tmp_path, many, 1)) == 400
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
