"""Constants that several nodes read: no form may change them for one reader and not for another.

The graphs are no model's in particular. Each is written in every form and held to what rounding
alone loses; gains of norms are far from 1 and of both signs.
"""

import pytest
from onnx import helper, numpy_helper

from lmonnx.compiler.graph import MICROSOFT
from lmonnx.compiler.quantize.decoder_graph import write_decoder
from lmonnx.compiler.quantize.dynamic import Granularity, write_int8
from lmonnx.compiler.quantize.forms import BY_ROWS, Form
from lmonnx.compiler.quantize.graph_source import recipe_of
from lmonnx.compiler.quantize.recipes import Plan, forms
from tests.hand_graphs import Graph, branch, constants, gated, head, look_up, node, norm, product
from tests.rounded import write_rounded

pytestmark = pytest.mark.compiler
FLAT = node("Reshape", "n flat", "rows")
START = [look_up(), norm()]
AGAIN = [product(output="y1"), norm("y1", "n2", "gain2")]
STORED = helper.make_node(
    "Constant", [], ["held"], value=numpy_helper.from_array(constants()["gain"])
)
GRAPHS = {
    "a matrix of two norms": [*START, *AGAIN, product("n2")],
    "a matrix of a norm and its own product": [*START, product(output="y1"), product("y1")],
    "a matrix of a norm and a ReLU": [
        *START, product(output="y1"), node("Relu", "y1", "r"), product("r"),
    ],
    "a matrix by two names": [
        node("Identity", "square", "again"), node("Identity", "again", "more"), *START,
        product(output="y1"), product("y1", "more", "y2"), node("Relu", "y2", "r"),
        product("r", "again"),
    ],
    "a matrix with a bias, twice": [
        *START, product(output="y0"), node("Add", "y0 bias", "y1"), norm("y1", "n2", "gain2"),
        product("n2", output="y2"), node("Add", "y2 bias", "y"),
    ],
    "a bias that is a norm's": [*START, product(output="y1"), node("Add", "y1 shift", "y")],
    "a bias of two fused GELUs": [
        *START, product(output="y1"), node("BiasGelu", "y1 bias", "g1", MICROSOFT),
        product("g1", "square2", "y2"), node("BiasGelu", "y2 bias", "g2", MICROSOFT),
        product("g2"),
    ],
    "a gain of two norms": [
        *START, product(output="y1"), norm("y1", "n2"), product("n2", "square2"),
    ],
    "a table that a Gemm with a bias multiplies": [
        *START, FLAT, node("Gemm", "rows table biases", "y", transB=1),
    ],
    "a table that a head multiplies": [*START, head()],
    "a table of two lookups, one scaled": [
        look_up(), look_up(output="e2"), node("Mul", "e2 two", "e3"), node("Add", "e e3", "sum"),
        norm("sum"), head(),
    ],
    "a table of two heads": [
        *START, head(), norm(output="n2", gain="gain2"), head("n2", output="o"),
    ],
    "a value of a head and of a product": [*START, head(), product(output="o")],
    "a square table that a product reads too": [
        look_up("square_table"), norm(), product(weight="square_table", output="y1"),
        norm("y1", "n2", "gain2"), head("n2", "square_table"),
    ],
    "a table of a head and of a mean": [
        *START, head(output="y1"), node("Softmax", "y1", "p"), product("p", "table", "m"),
        norm("m", "n2", "gain2"), product("n2"),
    ],
    "a gated product": [*START, *gated("n", "x"), product("x", "down")],
    "a gated product of two layers": [
        *START, *gated("n", "x"), product("x", "down", "y1"), norm("y1", "n2", "gain2"),
        *gated("n2", "x2"), product("x2", "down"),
    ],
    "a gated product in equal parts": [
        *START, *gated("n", "x", sizes="", num_outputs=2), product("x", "down"),
    ],
    "a factor that is spread over the other": [
        *START, product(weight="wide", output="w"), node("Split", "w one_and", "u g", axis=-1),
        node("Mul", "u g", "x"), product("x", "almost"),
    ],
    "a split of texts": [
        *START, product(weight="wide", output="both"), node("Split", "both halves", "u g", axis=0),
        node("Sigmoid", "g", "a"), node("Mul", "u a", "x"), product("x", "down"),
    ],
    "a gain that is computed": [
        look_up(), node("Mul", "gain two", "held"), norm(gain="held"), product(),
    ],
    "a gain in a Constant": [look_up(), STORED, norm(gain="held"), product()],
    "a shift in a Constant": [look_up(), STORED, norm(shift="held"), product()],
    "a norm over two axes": [look_up(), norm(gain="gains", shift="", axis=1), product()],
    "a norm without a shift": [
        look_up(), node("SimplifiedLayerNormalization", "e gain", "n"), product(),
    ],
    "a norm of a sum": [
        look_up(), node("SkipLayerNormalization", "e e gain shift", "n", MICROSOFT), product(),
    ],
    "an output that is a layer's value": [*START, product(), node("Identity", "n", "o")],
    "an output that is a product": [*START, product(output="o"), node("Add", "o bias", "y")],
    "a branch that reads a matrix": [*START, product(), *branch("square")],
    "a branch that reads a gain": [*START, product(), *branch("gain")],
    "a branch that reads a table": [*START, head(), *branch("table")],
    "a branch that reads a value": [*START, product(), *branch("n")],
    "a branch that reads a product": [
        *START, product(output="y1"), node("Add", "y1 bias", "y"), *branch("y1"),
    ],
    "a branch that reads a lookup": [
        look_up(), node("Mul", "e two", "e2"), norm("e2"), head(), *branch("e"),
    ],
}  # fmt: skip
PLANS = {
    "int8": Plan("decoder", BY_ROWS, BY_ROWS, smoothed=True),
    "int8, steady": Plan("decoder", BY_ROWS, BY_ROWS, smoothed=True, steady=6.0),
    "int8, blocks for a head": Plan("model", BY_ROWS, Form(8, 64), smoothed=True),
    "8 bits": Plan("model", Form(8, 32), Form(8, 64), smoothed=False),
    "4 bits": Plan("model", Form(4, 32), Form(8, 64), smoothed=False),
}


@pytest.fixture(scope="module", params=GRAPHS)
def graph(request, tmp_path_factory):
    return Graph(GRAPHS[request.param], tmp_path_factory.mktemp("graph"))


@pytest.mark.parametrize("granularity", Granularity)
@pytest.mark.parametrize("calibrated", [True, False])
def test_int8_of_an_encoder(graph, granularity, calibrated):
    write_int8(
        graph.path,
        graph.made,
        graph.made.name,
        granularity=granularity,
        layers=[layer.name for layer in graph.layers],
        optimized=True,
        calibration=graph.seen() if calibrated else None,
    )
    write_rounded(graph.path, graph.rounded, whole=granularity is Granularity.TENSOR)
    assert graph.is_close(1.2)


@pytest.mark.parametrize("form", PLANS)
def test_forms_of_a_decoder(graph, form):
    plan, source = PLANS[form], graph.source()
    write_decoder(graph.path, graph.made, graph.made.name, recipe_of(source, plan, ()))
    write_rounded(graph.path, graph.rounded, forms(graph.model, plan, ()), whole=True)
    assert graph.is_close(1.2)
