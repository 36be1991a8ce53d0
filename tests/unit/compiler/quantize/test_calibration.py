"""Calibration: means and ranges of real tokens, what biases take back, ranges well used."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from lmonnx import Bundle, load
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.quantize.activations import balanced_factors, channel_factors, is_one_sided
from lmonnx.compiler.quantize.calibration import Seen, observe
from lmonnx.compiler.quantize.dynamic import Granularity, write_int8
from lmonnx.compiler.quantize.layers import find_layers
from lmonnx.compiler.quantize.weights import quantize_columns
from lmonnx.measure.sentences import parity_sentences
from lmonnx.progress import silent

pytestmark = pytest.mark.compiler
K, N = 64, 24


def layer_file(folder, weights, bias, op_type, domain):
    """Write product and bias, (B, S, K) → (B, S, N)."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="layer"),
        helper.make_node(op_type, ["product", "b"], ["y"], name="bias", domain=domain),
    ]
    shapes = {"x": ["b", "s", K], "y": ["b", "s", N]}
    x, y = (helper.make_tensor_value_info(n, 1, shape) for n, shape in shapes.items())
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph(nodes, "one", [x], [y], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "float.onnx")
    return folder / "float.onnx"


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize(("op_type", "domain"), [("Add", ""), ("BiasGelu", "com.microsoft")])
def test_the_corrected_bias_takes_back_the_mean_error(tmp_path, granularity, op_type, domain):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(K, N)).astype(np.float32)
    bias = rng.normal(size=N).astype(np.float32)
    x = (rng.normal(size=(4, 50, K)) + 2).astype(np.float32)  # its mean is what errors add up on
    source = layer_file(tmp_path, weights, bias, op_type, domain)
    rows = x.reshape(-1, K)
    seen = Seen(rows.mean(axis=0, dtype=np.float64), np.abs(rows).max(axis=0), float(rows.min()))

    def mean_error(calibration):
        target = tmp_path / f"{bool(calibration)}.onnx"
        options = {"granularity": granularity, "optimized": True, "calibration": calibration}
        write_int8(source, target, target.name, layers=["layer"], **options)
        wanted, given = (
            ort.InferenceSession(path).run(None, {"x": x})[0] for path in (source, target)
        )
        return np.abs((given - wanted).mean(axis=(0, 1))).mean()

    assert mean_error({"x": seen}) < 0.3 * mean_error({})


def test_means_are_over_tokens_and_not_over_padding(bert_bundle):
    bundle, texts = Bundle.open(bert_bundle), parity_sentences()[:12]
    value = find_layers(load_graph(bundle.file("onnx/model.onnx")))[0].value
    together = observe(bundle, {value}, texts, progress=silent)[value]
    alone = [observe(bundle, {value}, [text], progress=silent)[value] for text in texts]
    tokens = [load(bundle.path).tokenizer.count([text]) for text in texts]
    limit = bundle.manifest.text.max_length
    weights = [min(count, limit) for count in tokens]
    means = np.average([seen.mean for seen in alone], axis=0, weights=weights)
    np.testing.assert_allclose(together.mean, means, atol=1e-6)
    np.testing.assert_allclose(together.peak, np.max([s.peak for s in alone], axis=0), atol=1e-6)
    assert together.least == pytest.approx(min(seen.least for seen in alone), abs=1e-6)


def product_error(tmp_path, x, weights, *, op_type, calibration):
    """Return the rms error of the int8 form of f(x)·W, where f is an operator of one input."""
    nodes = [
        helper.make_node(op_type, ["x", *(["g"] if op_type != "Relu" else [])], ["v"], name="f"),
        helper.make_node("MatMul", ["v", "w"], ["y"], name="layer"),
    ]
    shapes = {"x": ["b", "s", K], "y": ["b", "s", N], "v": ["b", "s", K]}
    ends = [helper.make_tensor_value_info(n, 1, shape) for n, shape in shapes.items()]
    gains = np.where(np.arange(K) % 16, 1, 20).astype(np.float32)  # channels that are always large
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(gains, "g")]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 17)]
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), source)
    wanted, v = ort.InferenceSession(source).run(["y", "v"], {"x": x})
    rows = v.reshape(-1, K)
    seen = Seen(rows.mean(axis=0, dtype=np.float64), np.abs(rows).max(axis=0), float(rows.min()))
    options = {"granularity": Granularity.ROW, "optimized": True, "layers": ["layer"]}
    known = {"v": seen} if calibration else None
    write_int8(source, target, target.name, calibration=known, **options)
    found = ort.InferenceSession(target).run(["y"], {"x": x})[0]
    return np.sqrt(np.square(found - wanted).mean())


@pytest.mark.parametrize(("op_type", "gain"), [("LayerNormalization", 0.6), ("Relu", 0.8)])
def test_a_row_is_rounded_better_where_its_range_is_known(tmp_path, op_type, gain):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 30, K)).astype(np.float32) * 3
    weights = rng.normal(size=(K, N)).astype(np.float32)
    if op_type == "Relu":  # weights that are rounded without an error leave the activations'
        weights = np.sign(weights)
    options = {"op_type": op_type}
    known = product_error(tmp_path, x, weights, calibration=True, **options)
    assert known < gain * product_error(tmp_path, x, weights, calibration=False, **options)


def test_only_a_peak_far_above_the_empty_side_makes_a_range_one_sided():
    channels = np.ones(K)
    assert is_one_sided(Seen(channels, 5 * channels, -0.17))
    assert not is_one_sided(Seen(channels, 5 * channels, -0.2))
    assert not is_one_sided(Seen(channels, channels, -0.1))  # all small: it may be below elsewhere


@pytest.mark.parametrize("outliers", [1, 8, 60])
def test_balanced_factors_lose_least_of_what_one_scale_for_all_rows_gives(outliers):
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(400, K)) * np.where(np.arange(K) < 3, outliers, 1)).astype(np.float32)
    weights = rng.normal(size=(K, N)).astype(np.float32)
    peak, importance = np.abs(x).max(axis=0), np.square(x).mean(axis=0)

    def loss(factors):
        scaled = x / factors
        step = np.abs(scaled).max() / 127
        integers, scales = quantize_columns(weights * factors[:, None])
        made = np.rint(scaled / step) * step @ (integers * scales)
        return np.square(made - x @ weights).mean()

    factors = balanced_factors(peak, importance, weights)
    others = [np.ones(K, np.float32), channel_factors(peak, [weights])]
    assert loss(factors) < 1.1 * min(map(loss, others))
    assert np.exp(np.log(factors).mean()) == pytest.approx(1, rel=1e-5)
    assert np.isfinite(balanced_factors(peak * 0, importance * 0, weights * 0)).all()


def test_factors_even_out_channels_and_keep_the_scale():
    rng = np.random.default_rng(2)
    peak = np.geomspace(0.01, 100, K)
    factors = channel_factors(peak, [rng.normal(size=(K, N))])
    spread = (peak / factors).max() / (peak / factors).min()
    assert spread < 500 < peak.max() / peak.min()
    assert np.exp(np.log(factors).mean()) == pytest.approx(1, rel=1e-5)
    silent_channel = channel_factors(peak, [np.zeros((K, N))])
    assert np.isfinite(silent_channel).all()
