"""Blocks of 4 and 8 bits: how far they are off, how they are packed, what the kernel reads."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper

from lmonnx.compiler.quantize.blocks import block_grid, quantize_blocks
from lmonnx.compiler.quantize.calibrated import inverse_factor, round_blocks, round_columns
from lmonnx.compiler.quantize.weights import quantize_columns
from lmonnx.runtime.session import run_bytes

pytestmark = pytest.mark.compiler
RNG = np.random.default_rng(0)
N, K = 24, 96


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@given(
    arrays(np.float32, (3, 70), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from([4, 8])
)
def test_no_weight_is_off_by_more_than_a_step_of_its_block(weights, bits):
    made = quantize_blocks(weights, bits=bits, block_size=32)
    # Clipping the largest by up to a fifth may be what makes the sum of squares least.
    steps = np.repeat(np.abs(made.scales), 32, axis=1)[:, :70] * (2 if bits == 4 else 1)
    assert (np.abs(made.matrix(70) - weights) <= steps * 1.01 + 1e-6).all()


def test_a_block_of_zeros_is_zeros_and_so_is_what_fills_the_last_block():
    weights = np.zeros((2, 40), np.float32)
    made = quantize_blocks(weights, bits=4, block_size=32)
    assert (made.integers == made.zeros[..., None]).all() and np.isfinite(made.scales).all()
    assert not made.matrix(40).any()


def test_values_on_a_grid_of_sixteen_come_back():
    scales = np.array([[0.5], [-2.0], [3.0]], np.float32)
    weights = (RNG.integers(-8, 8, (3, 64)) * scales).astype(np.float32)
    weights[:, 0::32] = -8 * scales
    made = quantize_blocks(weights, bits=4, block_size=32)
    np.testing.assert_allclose(made.matrix(64), weights, rtol=1e-5)


def test_scales_are_better_than_those_of_the_largest_weight():
    weights = draw(N, 128)
    made = quantize_blocks(weights, bits=4, block_size=64)
    blocks = weights.reshape(N, 2, 64)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / 7.5
    plain = (np.clip(np.rint(blocks / scale), -8, 7) * scale).reshape(N, -1)
    assert ((made.matrix(128) - weights) ** 2).mean() < 0.95 * ((plain - weights) ** 2).mean()


def test_what_matters_more_is_off_by_less():
    weights, importance = draw(N, 64), np.ones(64, np.float32)
    importance[:8] = 100
    losses = []
    for counted in (importance, None):
        grid = block_grid(weights, 4, counted)
        off = grid.round(weights) * grid.scales[:, None] - weights
        losses.append((off[:, :8] ** 2).mean())
    assert losses[0] < losses[1]


def test_a_block_with_one_side_has_all_its_steps_there():
    weights = np.abs(draw(N, 64)) + 0.1
    made = quantize_blocks(weights, bits=4, block_size=64)
    assert not made.is_symmetric and (made.zeros < 2).all()
    step = weights.max(axis=1, keepdims=True) / 15
    assert (np.abs(made.matrix(64) - weights) < 1.5 * step).all()


def run_product(made, x, bits, block_size):
    inputs = ["x", "blocks", "scales", "zeros"]
    attributes = {"K": K, "N": N, "bits": bits, "block_size": block_size, "accuracy_level": 0}
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", 1, list(x.shape))],
        [helper.make_tensor_value_info("y", 1, [len(x), N])],
        [
            onnx.numpy_helper.from_array(made.packed(), "blocks"),
            onnx.numpy_helper.from_array(made.scales, "scales"),
            onnx.numpy_helper.from_array(made.packed_zeros(), "zeros"),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return run_bytes(model.SerializeToString(), {"x": x}, settings={})[0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_the_kernel_reads_the_weights_that_are_meant(bits, block_size):
    made = quantize_blocks(draw(N, K), bits=bits, block_size=block_size)
    x = draw(5, K)
    given_ = run_product(made, x, bits, block_size)
    np.testing.assert_allclose(given_, x @ made.matrix(K).T, atol=1e-4)


def correlated(count=2000):
    return draw(count, K // 4) @ draw(K // 4, K) + 0.3 * draw(count, K)


def test_the_factor_is_that_of_the_inverse():
    x = correlated()
    second = x.T @ x / len(x)
    factor = inverse_factor(second, damp=0.01).astype(np.float64)
    damped = second + 0.01 * np.diag(second).mean() * np.eye(K)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(K), atol=1e-3)
    assert not np.tril(factor, -1).any()


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_calibrated_rounding_loses_less_of_the_outputs(block_size):
    x, weights = correlated(), draw(N, K)
    factor = inverse_factor(x.T @ x / len(x))
    nearest = quantize_blocks(weights, bits=4, block_size=block_size).matrix(K)
    made = round_blocks(weights.T, factor, bits=4, block_size=block_size).matrix(K)
    losses = [(((rounded - weights) @ x.T) ** 2).mean() for rounded in (made, nearest)]
    assert losses[0] < 0.6 * losses[1]


def test_calibrated_columns_are_seven_bits_and_lose_less_of_the_outputs():
    x, weights = correlated(), draw(K, N)
    integers, scales = round_columns(weights, inverse_factor(x.T @ x / len(x)))
    assert integers.dtype == np.int8 and integers.min() >= -63 and integers.max() <= 64
    nearest, steps = quantize_columns(weights)
    np.testing.assert_array_equal(scales, steps)
    losses = [((x @ (each * steps - weights)) ** 2).mean() for each in (integers, nearest)]
    assert losses[0] < 0.8 * losses[1]


def test_with_independent_inputs_calibrated_rounding_is_to_the_nearest():
    weights = draw(N, 64)
    factor = inverse_factor(np.eye(64, dtype=np.float32))
    made = round_blocks(weights.T, factor, bits=4, block_size=32)
    nearest = quantize_blocks(weights, bits=4, block_size=32)
    np.testing.assert_array_equal(made.integers, nearest.integers)


def test_an_input_that_text_never_shows_is_rounded_without_a_nan():
    made = round_blocks(
        draw(K, N), inverse_factor(np.zeros((K, K), np.float32)), bits=4, block_size=32
    )
    assert np.isfinite(made.matrix(K)).all()
