"""Attention as scaled_dot_product_attention is traced: its scale is computed of the head size."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from lmonnx import Bundle, StageError, load
from lmonnx.bundle.draft import draft_at
from lmonnx.compiler.graph import load_graph, save_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.optimize.attention import count_attentions, loose_scales
from lmonnx.compiler.optimize.keys import keep_keys_in_rows
from lmonnx.compiler.optimize.scales import take_in_scales
from lmonnx.compiler.optimize.shapes import infer_shapes
from lmonnx.compiler.optimize.sizes import fix_sizes
from lmonnx.compiler.quantize import quantize
from lmonnx.runtime.session import save_optimized
from tests.texts import mixed_texts

pytestmark = pytest.mark.compiler
TEXTS = [text for text in mixed_texts() if isinstance(text, str)]
# As torch writes it: a row that is all masked is all 0, and not NaN.
ATTENTION = """<ir_version: 8, opset_import: ["": 17]>
g (float[b, s, 32] q, float[b, s, 32] k, float[b, s, 32] v, bool[b, o, t, s] mask)
    => (float[b, n, t, d] y) <
    float[1] one = {1}, int64[1] last = {-1}, int64[1] end = {9223372036854775807},
    int64 zero = {0}, int64[1] first = {0}, int64[1] four = {4}, int64[1] rest = {8},
    int64[1] open = {-1}, float nil = {0}, float low = {-inf}
> {
    whole = Shape (q)
    b0 = Gather <axis = 0> (whole, zero)
    batch = Unsqueeze (b0, first)
    split = Concat <axis = 0> (batch, open, four, rest)
    q4 = Reshape (q, split)
    k4 = Reshape (k, split)
    v4 = Reshape (v, split)
    qh = Transpose <perm = [0, 2, 1, 3]> (q4)
    kt = Transpose <perm = [0, 2, 3, 1]> (k4)
    vh = Transpose <perm = [0, 2, 1, 3]> (v4)
    sizes = Shape (qh)
    d0 = Slice (sizes, last, end)
    d = Cast <to = 1> (d0)
    root = Sqrt (d)
    scale = Div (one, root)
    half = Sqrt (scale)
    qs = Mul (qh, half)
    ks = Mul (kt, half)
    scores = MatMul (qs, ks)
    bias = Where (mask, nil, low)
    masked = Add (scores, bias)
    probs = Softmax <axis = -1> (masked)
    undefined = IsNaN (probs)
    p = Where (undefined, nil, probs)
    y = MatMul (p, vh)
}"""


def fused(model, folder):
    plain, made = folder / "plain.onnx", folder / "fused.onnx"
    onnx.save(model, plain)
    save_optimized(plain, made)
    model = load_graph(made)
    take_in_scales(model)
    keep_keys_in_rows(model)
    return model


def answer(model):
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((3, 7, 32)).astype(np.float32) for name in "qkv"}
    values["mask"] = np.arange(7) < np.array([7, 3, 0]).reshape(3, 1, 1, 1)
    return ort.InferenceSession(model.SerializeToString()).run(None, values)[0]


def with_constant_nodes(model):
    """Return a graph whose constants are nodes, as a tracer leaves them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
    del made.graph.initializer[:]
    del made.graph.node[:]
    made.graph.node.extend([*held, *model.graph.node])
    return made


def attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


@pytest.mark.parametrize("form", [with_constant_nodes, lambda model: model], ids=["nodes", "held"])
def test_a_scale_of_the_head_size_goes_into_the_product(form, tmp_path):
    model = form(onnx.parser.parse_model(ATTENTION))
    expected = answer(model)
    assert not expected[2].any() and expected[:2].all()
    assert loose_scales(fused(model, tmp_path)) and count_attentions(model) == 1
    assert fix_sizes(model) == 1
    made = fused(model, tmp_path)
    product = next(node for node in made.graph.node if node.op_type == "FusedMatMul")
    stated = attributes(product)
    assert stated["alpha"] == pytest.approx(8**-0.5) and stated["transB"] == 1
    assert not {"Sqrt", "Div", "Mul"} & {node.op_type for node in made.graph.node}
    assert not loose_scales(made)
    np.testing.assert_allclose(answer(made), expected, atol=1e-5 * np.ptp(expected))


def test_what_a_minus_one_stands_for_is_solved_where_the_free_axes_go_over():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[b, s, 32] x) => (int64[1] y) <
        int64[2] free = {0, 1}, int64[1] four = {4}, int64[1] open = {-1}, int64[1] three = {3}
    > {
        whole = Shape (x)
        kept = Gather <axis = 0> (whole, free)
        split = Concat <axis = 0> (kept, four, open)
        heads = Reshape (x, split)
        sizes = Shape (heads)
        y = Gather <axis = 0> (sizes, three)
    }"""
    model = onnx.parser.parse_model(text)
    assert infer_shapes(model)["heads"][2:] == (4, 8)
    assert fix_sizes(model) == 1 and model.graph.node[-1].op_type != "Gather"
    fixed = next(t for t in model.graph.initializer if t.name == "y")
    assert numpy_helper.to_array(fixed).tolist() == [8]


def test_a_size_that_is_free_is_left():
    model = onnx.parser.parse_model(ATTENTION.replace("float[b, s, 32]", "float[b, s, e]"))
    for tensor in model.graph.initializer:
        if tensor.name in {"rest", "open"}:
            number = {"rest": -1, "open": 7}[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(np.array([number]), tensor.name))
    assert fix_sizes(model) == 0


def test_shapes_that_a_graph_states_of_its_insides_are_not_believed():
    model = onnx.parser.parse_model(ATTENTION)
    for name in ("b0", "qh", "y"):
        stale = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 7, 16])
        model.graph.value_info.append(stale)
    model.graph.output[0].CopyFrom(stale)
    assert infer_shapes(model)["qh"][1] == 4 and infer_shapes(model)["qh"][3] == 8
    assert not {1, 7, 16} & set(infer_shapes(model)["y"])


def test_parts_of_a_shape_are_picked_as_onnx_does():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[b, 2, 3, 5, 7] x) => (int64[n] y0, int64 y1, int64[m] y2, int64[k] y3) <
        int64[1] five = {5}, int64[1] last = {-1}, int64[1] axis = {0}, int64[1] back = {-2},
        int64[1] first = {0}, int64[1] end = {9223372036854775807}, int64 two = {2}
    > {
        y0 = Shape <start = 1, end = -1> (x)
        sizes = Shape (x)
        y1 = Gather <axis = 0> (sizes, two)
        y2 = Slice (sizes, last, first, axis, back)
        y3 = Slice (sizes, first, end)
    }"""
    model = onnx.parser.parse_model(text)
    x = np.zeros((9, 2, 3, 5, 7), np.float32)
    expected = ort.InferenceSession(model.SerializeToString()).run(["y0", "y1", "y2"], {"x": x})
    assert fix_sizes(model) == 3  # y3 has the free axis
    fixed = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, wanted in zip(("y0", "y1", "y2"), expected, strict=True):
        np.testing.assert_array_equal(fixed[name], wanted)
        assert fixed[name].shape == wanted.shape


TURNED = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
g (float[b, s, d] q, float[b, s, d] k, float[d, s] w) => (float[b, s, s] y%s) <
    float c = {4}, float none = {0}, float[1, 1, 1] wide = {4}
> {
    scaled = %s
    turned = Transpose <perm = [0, 2, 1]> (scaled)
    y = %s
}"""
PRODUCT = "MatMul (q, turned)"


@pytest.mark.parametrize(
    ("scaled", "product", "alpha"),
    [
        ("Div (k, c)", PRODUCT, 0.25),
        ("Mul (c, k)", PRODUCT, 4.0),
        ("Div (k, c)", "com.microsoft.FusedMatMul <alpha = 0.5> (q, turned)", 0.125),
    ],
)
def test_a_constant_scale_goes_through_a_transposition(scaled, product, alpha):
    model = onnx.parser.parse_model(TURNED % ("", scaled, product))
    assert len(loose_scales(model)) == 1
    assert take_in_scales(model) == 1 and not loose_scales(model)
    assert [node.op_type for node in model.graph.node] == ["Transpose", "FusedMatMul"]
    assert attributes(model.graph.node[1])["alpha"] == alpha and model.graph.node[0].input[0] == "k"


@pytest.mark.parametrize(
    ("outputs", "scaled"),
    [
        (", float[b, s, d] scaled", "Div (k, c)"),  # others read it
        (", float[b, d, s] turned", "Div (k, c)"),
        ("", "Div (c, k)"),  # no scale
        ("", "Div (k, none)"),
        ("", "Mul (k, wide)"),
        ("", "Add (k, c)"),
    ],
)
def test_what_is_no_scale_of_the_product_alone_is_left(outputs, scaled):
    model = onnx.parser.parse_model(TURNED % (outputs, scaled, PRODUCT))
    before = model.SerializeToString()
    assert take_in_scales(model) == 0 and model.SerializeToString() == before


def test_a_softmax_over_a_product_with_weights_is_no_attention():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[b, s, 4] x) => (float[n, 2, m] y, float[b, s, t] z) <
        float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] bias = {1, 2},
        int64[3] shape = {-1, 2, 1}
    > {
        tied = Identity (w)
        p = MatMul (x, tied)
        kernels = Add (p, bias)
        each = Reshape (kernels, shape)
        y = Softmax <axis = 1> (each)
        turned = Transpose <perm = [0, 2, 1]> (x)
        scores = MatMul (x, turned)
        z = Softmax <axis = -1> (scores)
    }"""
    assert count_attentions(onnx.parser.parse_model(text)) == 1


# Bundles ---------------------------------------------------------------------------------------


def with_scale_of(bundle, target, value):
    """Write a bundle again whose scores are divided by the root of the last axis of a value."""
    source = bundle.file(bundle.manifest.graphs["model"].file)
    model = load_graph(source)
    nodes = []
    ends = {"last": [-1], "end": [2**63 - 1]}
    for name, numbers in ends.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    products = {n.output[0]: n for n in model.graph.node if n.name.endswith("/Scores")}
    for node in model.graph.node:
        product = products.get(node.input[0]) if node.input else None
        if node.op_type == "Mul" and product is not None:
            at, read = node.name, value or product.input[0]
            nodes += [
                helper.make_node("Shape", [read], [f"{at}/sizes"], name=f"{at}/Shape"),
                helper.make_node(
                    "Slice", [f"{at}/sizes", *ends], [f"{at}/size"], name=f"{at}/Slice"
                ),
                helper.make_node("Cast", [f"{at}/size"], [f"{at}/float"], name=f"{at}/Cast", to=1),
                helper.make_node("Sqrt", [f"{at}/float"], [f"{at}/root"], name=f"{at}/Sqrt"),
            ]
            node = helper.make_node("Div", [node.input[0], f"{at}/root"], node.output, name=at)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    file = bundle.manifest.graphs["model"].file
    with draft_at(target) as draft:
        draft.copy(
            bundle, (n for n in bundle.manifest.files if "onnx/" not in n and n != "README.md")
        )
        spec = save_graph(model, source.parent, draft.file(file), file)
        draft.seal(replace(bundle.manifest.replace_graph(spec), files=None))
    return Bundle.open(target)


def test_a_bundle_of_that_pattern_is_fused_as_its_native_twin(bert_bundle, tmp_path):
    bundle = with_scale_of(Bundle.open(bert_bundle), tmp_path / "traced", None)
    made = optimize(bundle, tmp_path / "opt")
    twin = optimize(Bundle.open(bert_bundle), tmp_path / "native")
    assert made.manifest.history[-1].metrics["fused"] == twin.manifest.history[-1].metrics["fused"]
    first, second = (load(b.path).logits(TEXTS, long="truncate") for b in (bundle, made))
    assert np.abs(first - second).max() <= 1e-5 * np.ptp(first)


def test_a_scale_that_no_weight_fixes_is_refused_and_quantized_unfused(bert_bundle, tmp_path):
    bundle = with_scale_of(Bundle.open(bert_bundle), tmp_path / "traced", "attention_mask")
    with pytest.raises(StageError, match=r"2 products .* beside them.*quantize takes too"):
        optimize(bundle, tmp_path / "opt")
    assert not (tmp_path / "opt").exists()
    made = quantize(bundle, tmp_path / "int8", max_drop=0.5)
    assert made.manifest.history[-1].metrics["layers"] == 12
