"""The int8 graph: exact integer arithmetic at the extremes, and independence of the batch."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from lmonnx.compiler.quantize.calibration import Seen
from lmonnx.compiler.quantize.dynamic import Granularity, write_int8
from lmonnx.compiler.quantize.layers import find_layers
from lmonnx.compiler.quantize.weights import quantize_columns, quantize_rows

pytestmark = pytest.mark.compiler
K, N = 96, 40


def layer_file(folder, weights):
    """Write a graph of one product, (B, S, K) → (B, S, N)."""
    node = helper.make_node("MatMul", ["x", "w"], ["logits"], name="layer")
    shapes = {"x": ["b", "s", K], "logits": ["b", "s", N]}
    x, y = (helper.make_tensor_value_info(n, 1, shape) for n, shape in shapes.items())
    graph = helper.make_graph([node], "one", [x], [y], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "layer.onnx")
    return folder / "layer.onnx"


def int8_product(folder, weights, x, granularity=Granularity.ROW, **settings):
    source, target = layer_file(folder, weights), folder / f"{granularity}.onnx"
    names = [layer.name for layer in find_layers(onnx.load(source))]
    options = {"granularity": granularity, "layers": names, "optimized": True}
    write_int8(source, target, target.name, **options)
    session = ort.SessionOptions()
    for key, value in settings.items():
        session.add_session_config_entry(key.replace("__", "."), value)
    return ort.InferenceSession(target, session).run(None, {"x": x})[0]


def exact_product(weights, x):
    """Return what int8 by rows is by definition, in exact integers."""
    integers, scales = quantize_columns(weights)
    step = np.maximum(np.abs(x).max(axis=-1, keepdims=True) * np.float32(1 / 127), 1e-30)
    rounded = np.rint(x / step).astype(np.int64)
    return (rounded @ integers.astype(np.int64)).astype(np.float32) * scales * step


def extremes(seed=0):
    """Return weights and activations as large as they can be, and of all sizes."""
    rng = np.random.default_rng(seed)
    weights = rng.choice([-1e3, 1e3], (K, N)).astype(np.float32)
    weights[:, 0] = 1e3  # one sign: the sums of pairs that saturate int16
    weights[:, 1] *= np.float32(1e-9)
    x = rng.choice([-1e4, 1e4], (3, 5, K)).astype(np.float32)
    x[0, 0] = 1e4
    x[1, 1] = 0
    x[2] *= np.float32(1e-7)
    return weights, x


@pytest.mark.parametrize("precise", ["0", "1"])
def test_extreme_weights_and_activations_equal_exact_integer_arithmetic(tmp_path, precise):
    weights, x = extremes()
    given_ = int8_product(tmp_path, weights, x, session__x64quantprecision=precise)
    np.testing.assert_allclose(given_, exact_product(weights, x), rtol=1e-6)


@pytest.mark.parametrize("granularity", Granularity)
def test_both_kernel_settings_give_the_same(tmp_path, granularity):
    weights, x = extremes(1)
    runs = [
        int8_product(tmp_path, weights, x, granularity, session__x64quantprecision=precise)
        for precise in "01"
    ]
    np.testing.assert_array_equal(*runs)


def test_a_row_does_not_depend_on_its_neighbours(tmp_path):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(K, N)).astype(np.float32)
    x = rng.normal(size=(1, 6, K)).astype(np.float32)
    loud = x.copy()
    loud[0, 1:] *= 1000
    alone, beside = (int8_product(tmp_path, weights, rows)[0, 0] for rows in (x, loud))
    np.testing.assert_array_equal(alone, beside)


def test_one_scale_for_the_tensor_lets_an_outlier_spoil_its_neighbours(tmp_path):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(K, N)).astype(np.float32)
    x = rng.normal(size=(1, 6, K)).astype(np.float32)
    x[0, 1] *= 1000
    by_row, by_tensor = (int8_product(tmp_path, weights, x, g) for g in Granularity)
    errors = [np.abs(y - x @ weights)[0, 0].mean() for y in (by_row, by_tensor)]
    assert errors[1] > 20 * errors[0]


matrices = arrays(np.float32, (7, 5), elements=st.floats(-1e6, 1e6, width=32))


@given(matrices)
@example(np.full((7, 5), 3.918e-42, np.float32))
def test_columns_are_rounded_to_seven_bits_within_half_a_step(weights):
    integers, scales = quantize_columns(weights)
    assert np.abs(integers).max() <= 63
    assert np.all(np.abs(integers * scales - weights) <= scales * 0.5001)


@given(matrices)
def test_rows_are_rounded_to_eight_bits_within_half_a_step(table):
    integers, scales = quantize_rows(table)
    assert scales.shape == (7, 1)
    assert np.all(np.abs(integers * scales - table) <= scales * 0.5001)


V = 120


def head_file(folder, *, tied, columns=8):
    """Write lookup → Gemm to the vocabulary, or MatMul + Add to a few columns: ids → logits."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(V, K)).astype(np.float32)
    small = rng.normal(size=(K, columns)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x"], name="words", axis=0)]
    if tied:
        nodes.append(
            helper.make_node("Gemm", ["x", "table", "bias"], ["logits"], name="out", transB=1)
        )
    else:
        nodes.append(helper.make_node("MatMul", ["x", "small"], ["product"], name="out"))
        nodes.append(helper.make_node("Add", ["product", "bias"], ["logits"], name="bias_add"))
    wide = V if tied else columns
    bias = rng.normal(size=wide).astype(np.float32)
    constants = {"table": table, "bias": bias} | ({} if tied else {"small": small})
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("input_ids", 7, ["n"])],
        [helper.make_tensor_value_info("logits", 1, ["n", wide])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "head.onnx")
    return folder / "head.onnx"


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("calibration", [{}, {"x": Seen(np.zeros(K), np.ones(K), -1.0)}])
def test_a_tied_table_is_looked_up_by_rows_and_multiplied_by_columns(
    tmp_path, granularity, calibration
):
    source = head_file(tmp_path, tied=True)
    (layer,) = find_layers(onnx.load(source))
    assert (layer.name, layer.value, layer.weight) == ("out", "x", "table")
    target = tmp_path / "int8.onnx"
    options = {"granularity": granularity, "optimized": True, "calibration": calibration}
    write_int8(source, target, target.name, layers=["out"], **options)
    model = onnx.load(target, load_external_data=False)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert {"table_int8", "table_columns_int8"} < kinds.keys() and "table" not in kinds
    ids = np.arange(V)
    wanted, given_ = (
        ort.InferenceSession(path).run(None, {"input_ids": ids})[0] for path in (source, target)
    )
    assert np.corrcoef(wanted.ravel(), given_.ravel())[0, 1] > 0.999


def test_both_forms_of_a_tied_table_can_be_switched(tmp_path):
    source, target = head_file(tmp_path, tied=True), tmp_path / "both.onnx"
    options = {"granularity": Granularity.ROW, "optimized": True, "switched": True}
    write_int8(source, target, target.name, layers=["out"], **options)
    session = ort.InferenceSession(target)
    exact, rounded = (
        session.run(None, {"input_ids": np.arange(V), "switches": np.array([on])})[0]
        for on in (False, True)
    )
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(exact, rounded, atol=1.5)


def test_a_head_of_few_labels_stays_in_float32(tmp_path):
    assert find_layers(onnx.load(head_file(tmp_path, tied=False))) == ()
    (layer,) = find_layers(onnx.load(head_file(tmp_path, tied=False, columns=64)))
    assert layer.name == "out"


def test_layers_that_share_a_matrix_have_the_same_factors(tmp_path):
    rng = np.random.default_rng(3)
    gain = np.exp(rng.normal(size=K)).astype(np.float32)
    constants = {"gain": gain, "zeros": np.zeros(K, np.float32)}
    constants["w"] = rng.normal(size=(K, K)).astype(np.float32) / 10
    value, nodes, seen = "x", [], {}
    for i in range(2):
        norm = helper.make_node("LayerNormalization", [value, "gain", "zeros"], [f"n{i}"])
        value = f"y{i}" if i == 0 else "logits"
        nodes += [norm, helper.make_node("MatMul", [f"n{i}", "w"], [value], name=f"layer{i}")]
        # Each value has outliers in channels of its own.
        peak = np.where(np.arange(K) % 2 == i, 20, 2).astype(np.float32) * gain
        seen[f"n{i}"] = Seen(np.zeros(K), peak, -float(peak.max()))
    infos = [helper.make_tensor_value_info(name, 1, ["b", K]) for name in ("x", "logits")]
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "two", infos[:1], infos[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    source, target = tmp_path / "two.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), source)
    options = {"layers": ["layer0", "layer1"], "optimized": True, "calibration": seen}
    write_int8(source, target, target.name, granularity=Granularity.ROW, **options)
    x = rng.normal(size=(50, K)).astype(np.float32)
    wanted, given_ = (ort.InferenceSession(f).run(None, {"x": x})[0] for f in (source, target))
    assert np.corrcoef(wanted.ravel(), given_.ravel())[0, 1] > 0.995
