"""The optimize stage: what is fused, that nothing is lost, and what is refused."""

import numpy as np
import onnx
import pytest

from lmonnx import Bundle, StageError, load
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.optimize.fusions import check_fusions
from lmonnx.compiler.optimize.keys import keep_keys_in_rows
from tests import tiny
from tests.texts import mixed_texts

pytestmark = pytest.mark.compiler
# A GELU with its bias and a scaled product a layer, of which most have two; ALBERT runs its two
# groups of two layers twice each. Heads are a Gemm with tanh, DistilBERT's with relu; ELECTRA's
# Gemm is followed by a GELU.
FUSED = {"BiasGelu": 2, "FusedMatMul": 2, "FusedGemm": 1}
OTHERS = {
    "electra": {"BiasGelu": 2, "Gelu": 1, "FusedMatMul": 2},
    "albert": {"FusedMatMul": 8, "FastGelu": 8, "FusedGemm": 1},
}


@pytest.fixture(scope="module")
def optimized(bert_bundle, tmp_path_factory):
    return optimize(Bundle.open(bert_bundle), tmp_path_factory.mktemp("optimized") / "bundle")


@pytest.mark.parametrize("architecture", tiny.WRITERS)
def test_every_architecture_gives_its_fused_operators(architecture, tmp_path):
    checkpoint = open_checkpoint(str(tiny.WRITERS[architecture](tmp_path / "checkpoint")))
    made = optimize(export(checkpoint, tmp_path / "fp32", verify=False), tmp_path / "opt")
    operators = made.manifest.graphs["model"].operators
    fused = OTHERS.get(architecture, FUSED)
    assert {name: operators.get(name) for name in fused} == fused
    assert made.manifest.history[-1].metrics["fused"] == fused
    assert "Erf" not in operators and "SkipLayerNormalization" not in operators


def test_the_fused_graph_gives_the_same_answers(bert_bundle, optimized):
    texts = [tuple(t) if isinstance(t, list) else t for t in mixed_texts()]
    first, second = (load(path).logits(texts) for path in (bert_bundle, optimized.path))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_the_step_shows_parity_and_both_load_times(optimized):
    step = optimized.manifest.history[-1]
    assert step.parity[0].relative <= 1e-4
    assert len(step.metrics["load_ms"]) == 2 and step.metrics["nodes"][1] < step.metrics["nodes"][0]


def test_the_file_keeps_the_versions_that_other_clients_read(optimized):
    model = onnx.load(optimized.file("onnx/model.onnx"), load_external_data=False)
    assert model.ir_version <= 10
    assert {o.domain: o.version for o in model.opset_import} == {"": 17, "com.microsoft": 1}


def test_an_optimized_bundle_is_not_optimized_again(optimized, tmp_path):
    with pytest.raises(StageError, match="optimized already"):
        optimize(optimized, tmp_path / "again")


def test_a_fusion_that_did_not_happen_is_an_error():
    with pytest.raises(StageError, match=r"2 Erf .* made 1"):
        check_fusions({"Erf": 2}, {"BiasGelu": 1, "Erf": 1})


def test_keys_are_turned_by_the_product_and_not_before(bert_bundle, tmp_path):
    made = optimize(Bundle.open(bert_bundle), tmp_path / "fused")
    model = load_graph(made.file("onnx/model.onnx"))
    turned = [
        node
        for node in model.graph.node
        if node.op_type == "FusedMatMul" and any(a.name == "transB" for a in node.attribute)
    ]
    assert len(turned) == 2  # one a layer
    perms = [list(n.attribute[0].ints) for n in model.graph.node if n.op_type == "Transpose"]
    assert perms and all(perm == [0, 2, 1, 3] for perm in perms)
    assert keep_keys_in_rows(model) == 0


@pytest.mark.parametrize(
    ("ends", "others", "turned"),
    [("", [], 1), (", float[b, h, d, s] t", [], 0), ("", ["t"], 0)],
    ids=["no other", "the graph's end", "a node"],
)
def test_a_turned_value_with_other_readers_is_left_alone(ends, others, turned):
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[b, s, h, d] q, float[b, s, h, d] k) => (float[b, h, s, s] y{ends}) {{
        r = Transpose <perm = [0, 2, 1, 3]> (q)
        t = Transpose <perm = [0, 2, 3, 1]> (k)
        y = MatMul (r, t)
    }}"""
    model = onnx.parser.parse_model(text)
    model.graph.node.extend(onnx.helper.make_node("Identity", [x], ["more"]) for x in others)
    assert keep_keys_in_rows(model) == turned
