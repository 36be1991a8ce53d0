"""Sessions of weights that loading makes: whose memory they are, and who refuses the graph."""

import gc

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from lmonnx.bundle.manifest import GraphSpec, TensorSpec
from lmonnx.runtime.row_weights import all_by_rows
from lmonnx.runtime.session import Session, SessionConfig
from tests.unit.runtime.test_row_weights import written

pytestmark = pytest.mark.compiler
NOWHERE = 1 << 40


def spec_of(made, path):
    """Write a graph that reads the matrix and has no kernel that repacks it; return its spec."""
    inputs, outputs = made.shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [inputs, outputs])
    weights = onnx.TensorProto(
        name="w", data_type=TensorProto.INT8, dims=made.shape, data_location=TensorProto.EXTERNAL
    )
    place = {"location": "weights", "offset": NOWHERE, "length": inputs * outputs}
    for key, value in place.items():
        weights.external_data.add(key=key, value=str(value))
    nodes = [
        helper.make_node("Cast", ["w"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "x"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [weights])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    tensors = TensorSpec("x", "float32", (1,)), TensorSpec("y", "float32", made.shape)
    return GraphSpec(path.name, 17, tensors[:1], tensors[1:], {}, optimized=True, made=(made,))


def test_a_session_keeps_what_its_kernels_do_not_repack(tmp_path):
    made, _ = written(tmp_path, 512, 512, 32)
    session = Session(tmp_path / "g.onnx", spec_of(made, tmp_path / "g.onnx"), SessionConfig())
    gc.collect()
    junk = [np.full((512, 512), 7, np.int8) for _ in range(50)]
    found = session.run({"x": np.ones(1, np.float32)})["y"]
    np.testing.assert_array_equal(found, all_by_rows(tmp_path, [made], 1)["w"])
    assert len(junk) == 50


def test_what_cannot_make_the_weights_refuses_the_graph(tmp_path):
    made, _ = written(tmp_path, 64, 64, 32)
    spec_of(made, tmp_path / "g.onnx")
    with pytest.raises(Exception, match="out of bounds"):
        ort.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
