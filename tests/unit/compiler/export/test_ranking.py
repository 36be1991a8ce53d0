"""The ranking in the graph: the best of each row as a stable sort has them, for any vocabulary."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from lmonnx.compiler.checkpoint.weights import Weights
from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.export.native.seq2seq.ranking import rank
from lmonnx.compiler.graph import GraphBuilder, WeightFile
from lmonnx.compiler.ranking import chunk_length, flatten_logits

RANKING = ("top_logprobs", "top_ids")
PRIME, MANY, OPUS = 4099, 6001, 58101


def session(tmp_path, vocabulary, *, opset=17, flat=False):
    weights = WeightFile(tmp_path / "weights")
    g = GraphBuilder(weights)
    rank(Scope(g, Params(Weights({}), "")), vocabulary, opset=opset)
    weights.close()
    shape = ["kept_rows", vocabulary] if flat else ["rows", "kept_length", vocabulary]
    inputs = [
        helper.make_tensor_value_info("given", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("top_k", TensorProto.INT64, []),
    ]
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ["rows", "kept_length", vocabulary]
    )
    nodes = [helper.make_node("Identity", ["given"], ["logits"]), *g.nodes]
    graph = helper.make_graph(
        nodes, "ranking", inputs, [logits, *g.outputs], list(g.initializers.values())
    )
    if flat:
        flatten_logits(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def expected(logits, k):
    rows = logits.astype(np.float64)
    logprobs = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    ids = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(logprobs, ids, -1), ids


@pytest.mark.parametrize("vocabulary", [5, 384, PRIME, MANY, OPUS])
@pytest.mark.parametrize("flat", [False, True], ids=["3-D", "2-D"])
@pytest.mark.parametrize("opset", [17, 18])
def test_the_best_are_those_of_a_stable_sort(tmp_path, vocabulary, flat, opset):
    ranking = session(tmp_path, vocabulary, opset=opset, flat=flat)
    rng = np.random.default_rng(vocabulary)
    for k in (1, 4, 29, 400, vocabulary + 3):
        # In steps that no rounding makes alike, many of them alike from the start.
        logits = rng.integers(-900, 900, (3, 2, vocabulary)).astype(np.float32) / 64
        given = logits.reshape(6, vocabulary) if flat else logits
        values, ids = ranking.run(list(RANKING), {"given": given, "top_k": np.array(k)})
        wanted, places = expected(given, min(k, vocabulary))
        assert (ids == places).all()
        np.testing.assert_allclose(values, wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("vocabulary", [PRIME, MANY])
def test_of_a_tie_the_lower_id_comes_first(tmp_path, vocabulary):
    ranking = session(tmp_path, vocabulary)
    rng = np.random.default_rng(1)
    logits = rng.integers(0, 3, (8, 1, vocabulary)).astype(np.float32)
    logits[0] = 0  # all alike
    logits[1] = -np.inf
    logits[1, 0, [7, vocabulary - 1]] = 1
    _, ids = ranking.run(list(RANKING), {"given": logits, "top_k": np.array(12)})
    assert (ids == expected(logits, 12)[1]).all()


def test_none_are_ranked_where_none_are_wanted(tmp_path):
    for flat in (False, True):
        ranking = session(tmp_path, MANY, flat=flat)
        shape = (6, MANY) if flat else (3, 2, MANY)
        found = ranking.run(
            list(RANKING), {"given": np.zeros(shape, np.float32), "top_k": np.array(0)}
        )
        assert [each.shape for each in found] == [(*shape[:-1], 0)] * 2


def test_nan_in_a_row_is_nan_in_its_best(tmp_path):
    ranking = session(tmp_path, MANY)
    logits = np.zeros((2, 1, MANY), np.float32)
    logits[1, 0, 77] = np.nan
    values, _ = ranking.run(list(RANKING), {"given": logits, "top_k": np.array(4)})
    assert np.isfinite(values[0]).all() and np.isnan(values[1]).all()


def test_chunks_divide_the_vocabulary():
    assert chunk_length(MANY) == 17 and chunk_length(OPUS) == 107
    assert chunk_length(PRIME) == chunk_length(384) == 0
    assert all(v % size == 0 for v in range(4096, 9000) if (size := chunk_length(v)))
