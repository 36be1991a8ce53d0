"""The kernels' self-test: the shipped graphs are the ones that the script makes."""

import pytest

from lmonnx.runtime.kernels import int8_is_exact, probe_activations, probe_weights, self_test
from tests.make_probes import FOLDER, PROBES, probe

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("file", PROBES)
def test_the_shipped_probe_is_what_the_script_writes(file):
    assert (FOLDER / file).read_bytes() == probe(PROBES[file])


def test_seven_bit_weights_are_exact_on_this_cpu():
    assert int8_is_exact()
    assert next(result.exact for result in self_test())


@pytest.mark.parametrize(("limit", "fits"), [(63, True), (127, False)])
def test_a_pair_of_products_fits_int16_with_seven_bits_and_not_with_eight(limit, fits):
    largest = 2 * int(probe_activations().max()) * int(probe_weights(limit).max())
    assert (largest < 2**15) is fits
