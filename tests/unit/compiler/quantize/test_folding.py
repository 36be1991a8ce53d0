"""Factors that cost nothing: where they can go, and that the function stays with its integers."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from lmonnx.compiler.graph import MICROSOFT
from lmonnx.compiler.quantize.decoder_graph import write_decoder
from lmonnx.compiler.quantize.folding import find_folds
from lmonnx.compiler.quantize.forms import BY_ROWS
from lmonnx.compiler.quantize.graph_source import GraphSource, recipe_of
from lmonnx.compiler.quantize.layers import find_layers
from lmonnx.compiler.quantize.moments import Moments
from lmonnx.compiler.quantize.recipes import Plan

pytestmark = pytest.mark.compiler
VOCABULARY, WIDTH, IDS = 70, 32, np.arange(70)[None]
NORMED = "normed"
STEADY = Plan("decoder", BY_ROWS, BY_ROWS, smoothed=True, steady=6.0)


def head(weight="table", value=NORMED, result="logits"):
    return helper.make_node(
        "FusedMatMul", [value, weight], [result], name=result, domain=MICROSOFT, transB=1
    )


def product(weight, value=NORMED, result="logits"):
    return helper.make_node("MatMul", [value, weight], [result], name=result)


def graph_of(*nodes, spread=1.0):
    """Return a graph of a lookup and a norm of gains e^N(0, spread²), and then some nodes."""
    random = np.random.default_rng(5)
    arrays = {
        "table": random.standard_normal((VOCABULARY, WIDTH)),
        "own": random.standard_normal((VOCABULARY, WIDTH)),
        "square": random.standard_normal((WIDTH, WIDTH)),
        "gain": np.exp(spread * random.standard_normal(WIDTH)),
        "shift": random.standard_normal(WIDTH),
    }
    first = [
        helper.make_node("Gather", ["table", "input_ids"], ["looked_up"], name="lookup"),
        helper.make_node("LayerNormalization", ["looked_up", "gain", "shift"], [NORMED]),
    ]
    graph = helper.make_graph(
        [*first, *nodes],
        "decoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(model, *names):
    return ort.InferenceSession(model).run(names or None, {"input_ids": IDS})


def moments_of(model):
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(helper.make_tensor_value_info(NORMED, TensorProto.FLOAT, None))
    rows = run(watched.SerializeToString(), NORMED)[0][0]
    sizes = np.abs(rows)
    return Moments(
        rows.T @ rows / len(rows),
        sizes.max(axis=0),
        float(np.median(sizes.max(axis=1))),
        float(rows.min()),
        float(rows.max()),
    )


def if_reads(value):
    inner = [
        helper.make_graph(
            [helper.make_node(op_type, [value], [f"{op_type}_output"])],
            op_type,
            [],
            [helper.make_tensor_value_info(f"{op_type}_output", TensorProto.FLOAT, None)],
        )
        for op_type in ("Identity", "Neg")
    ]
    return [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["seen"], then_branch=inner[0], else_branch=inner[1]),
    ]


@pytest.mark.parametrize(
    ("nodes", "folded"),
    [
        ([head("own")], True),
        ([product("square")], True),
        ([head("own"), product("square", result="other")], True),
        ([head("table")], True),
        ([head("table"), helper.make_node("Neg", ["table"], ["other"])], False),
        ([head("own"), helper.make_node("Identity", [NORMED], ["other"])], False),
        ([head("own"), *if_reads(NORMED)], False),
        ([head("own"), *if_reads("own")], False),
        ([product("square", result="middle"), product("square", "middle")], False),
    ],
    ids=[
        "a head of its own",
        "a product",
        "two readers, both products",
        "a head that is looked up too",
        "a table that is read elsewhere",
        "a value that is read elsewhere",
        "a value that is read in a branch",
        "a matrix that is read in a branch",
        "a matrix of two products",
    ],
)
def test_factors_go_where_nothing_else_sees_them(nodes, folded):
    model = graph_of(*nodes)
    assert (NORMED in find_folds(model, find_layers(model))) is folded


@pytest.mark.parametrize(
    ("weight", "spread", "multiplied"), [("own", 1.0, 1), ("table", 0.2, 1), ("table", 1.0, 2)]
)
def test_a_head_of_integers_computes_what_the_float_one_does(tmp_path, weight, spread, multiplied):
    wanted, found, operators = both(tmp_path, graph_of(head(weight), spread=spread))
    assert operators.count("QGemm") == 1
    # By the rows' scales, and by what takes a head's factors back, where these are worth it.
    assert operators.count("Mul") == multiplied
    assert ((found - wanted) ** 2).mean() < 1e-3 * wanted.var()


@pytest.mark.parametrize("spread", [0.2, 0.7, 1.0, 1.5])
def test_factors_of_a_tied_head_cost_lookups_less_than_it_wins(tmp_path, spread):
    model = graph_of(head("table"), spread=spread)
    model.graph.output.append(helper.make_tensor_value_info("looked_up", TensorProto.FLOAT, None))
    lost = {}
    for plan in (STEADY, replace(STEADY, smoothed=False)):
        wanted, found = pair_of(tmp_path, model, plan)
        shares = [((a - b) ** 2).mean() / (a**2).mean() for a, b in zip(wanted, found, strict=True)]
        lost[plan.smoothed] = sum(shares)
    assert lost[True] < 1.3 * lost[False]  # which has a scale a row


def both(folder, model):
    """Return the logits of a graph and of its integers, and the latter's operators."""
    wanted, found = pair_of(folder, model, STEADY)
    operators = [node.op_type for node in onnx.load(folder / "made.onnx").graph.node]
    return wanted[0], found[0], operators


def pair_of(folder, model, plan):
    """Return the outputs of a graph and those of its integers."""
    path, made = folder / "float.onnx", folder / "made.onnx"
    onnx.save(model, path)
    source = GraphSource(path, model, find_layers(model), {NORMED: moments_of(model)})
    write_decoder(path, made, made.name, recipe_of(source, plan, ()))
    return run(str(path)), run(str(made))
