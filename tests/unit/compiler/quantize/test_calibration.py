"""Bias correction: the means are those of real tokens, and the mean error is taken back."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from lmonnx import Bundle, load
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.quantize.calibration import mean_inputs
from lmonnx.compiler.quantize.dynamic import Granularity, write_int8
from lmonnx.compiler.quantize.layers import find_layers
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
    means = {"x": x.mean(axis=(0, 1), dtype=np.float64)}

    def mean_error(means):
        target = tmp_path / f"{bool(means)}.onnx"
        options = {"granularity": granularity, "optimized": True, "means": means}
        write_int8(source, target, target.name, layers=["layer"], **options)
        wanted, given = (
            ort.InferenceSession(path).run(None, {"x": x})[0] for path in (source, target)
        )
        return np.abs((given - wanted).mean(axis=(0, 1))).mean()

    assert mean_error(means) < 0.3 * mean_error({})


def test_means_are_over_tokens_and_not_over_padding(bert_bundle):
    bundle, texts = Bundle.open(bert_bundle), parity_sentences()[:12]
    value = find_layers(load_graph(bundle.file("onnx/model.onnx")))[0].value
    together = mean_inputs(bundle, {value}, texts, progress=silent)[value]
    alone = [mean_inputs(bundle, {value}, [text], progress=silent)[value] for text in texts]
    tokens = [load(bundle.path).tokenizer.count([text]) for text in texts]
    limit = bundle.manifest.text.max_length
    weights = [min(count, limit) for count in tokens]
    np.testing.assert_allclose(together, np.average(alone, axis=0, weights=weights), atol=1e-6)
