"""Write lmonnx/runtime/probes/*.onnx: the int8 kernels' self-test, one small graph a kernel."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmonnx.runtime.kernels import EIGHT_BITS, SEVEN_BITS, K, N, probe_weights

FOLDER = Path(__file__).parents[1] / "lmonnx" / "runtime" / "probes"
PROBES = {"int8_seven_bits.onnx": SEVEN_BITS, "int8_eight_bits.onnx": EIGHT_BITS}


def probe(limit: int) -> bytes:
    """Return MatMulIntegerToFloat on weights in ±limit, scales 1 and zero point 128."""
    constants = {
        "weights": probe_weights(limit),
        "scale": np.float32(1),
        "scales": np.ones(N, np.float32),
        "zero_point": np.uint8(128),
    }
    node = helper.make_node(
        "MatMulIntegerToFloat",
        ["activations", "weights", "scale", "scales", "zero_point"],
        ["sums"],
        domain="com.microsoft",
    )
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, ["rows", K])],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["rows", N])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, limit in PROBES.items():
        (FOLDER / file).write_bytes(probe(limit))
