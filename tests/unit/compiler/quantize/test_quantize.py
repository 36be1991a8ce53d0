"""The quantize stage: its gate, what it widens, and what it refuses."""

import numpy as np
import onnx
import pytest

from lmonnx import Bundle, GateError, InputError, StageError, load
from lmonnx.bundle.manifest import Precision
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.quantize import dynamic, gate, quantize
from lmonnx.compiler.quantize.dynamic import Granularity
from lmonnx.compiler.quantize.layers import find_layers
from lmonnx.compiler.quantize.sensitivity import rank_layers
from lmonnx.measure.datasets import Example
from lmonnx.measure.sentences import gate_sentences
from lmonnx.progress import silent
from tests import tiny

pytestmark = pytest.mark.compiler
LAYERS = 12  # two encoder layers of six products each
NER = {0: "O", 1: "B-PER", 2: "I-PER"}


@pytest.fixture(scope="module")
def bundle(bert_bundle):
    return Bundle.open(bert_bundle)


@pytest.fixture(scope="module")
def quantized(bundle, tmp_path_factory):
    return quantize(bundle, tmp_path_factory.mktemp("int8") / "bundle", max_drop=0.2)


def spoil(arrays, inner, outer, at):
    """Make every second unit between two matrices 10,000 times as large, and take it back after.

    With relu, or nothing, between them float32 answers stay; a row's scale then serves outliers.
    """
    scale = np.where(np.arange(len(arrays[f"{at}{inner}.bias"])) % 2, 1.0, 1e4).astype(np.float32)
    arrays[f"{at}{inner}.weight"] *= scale[:, None]
    arrays[f"{at}{inner}.bias"] *= scale
    arrays[f"{at}{outer}.weight"] /= scale


def spoiled_bundle(folder, *, layers, attention):
    def edit(arrays):
        for layer in range(layers):
            at = f"bert.encoder.layer.{layer}."
            spoil(arrays, "intermediate.dense", "output.dense", at)
            if attention:
                spoil(arrays, "attention.self.value", "attention.output.dense", at)

    checkpoint = tiny.write_bert(folder / "checkpoint", hidden_act="relu", edit=edit)
    return export(open_checkpoint(str(checkpoint)), folder / "fp32", verify=False)


def examples(bundle, count=200, *, wrong=False):
    """Label the shipped sentences as the bundle itself does, so its accuracy is 1 (or 0)."""
    texts = gate_sentences()[:count]
    labels = bundle.manifest.head.labels
    answers = load(bundle.path)(texts)
    other = {labels[0]: labels[1], labels[1]: labels[0]}
    return [
        Example(text, other[a.label] if wrong else a.label)
        for text, a in zip(texts, answers, strict=True)
    ]


def test_the_manifest_holds_the_gate(quantized):
    step = quantized.manifest.history[-1]
    assert step.stage == "quantize" and quantized.manifest.precision is Precision.INT8
    low, high = step.metrics["interval"]
    assert low <= step.metrics["drop"] <= high and step.metrics["texts"] == 500
    assert step.metrics["layers"] == LAYERS and step.metrics["widened"] == []


def test_every_layer_and_the_table_are_int8(quantized):
    model = onnx.load(quantized.file("onnx/model.onnx"), load_external_data=False)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert sum(name.endswith("weight_int8") for name in kinds) == LAYERS + 1
    assert kinds["embeddings.word_embeddings.weight_int8"] == onnx.TensorProto.INT8
    operators = quantized.manifest.graphs["model"].operators
    assert operators["MatMulIntegerToFloat"] == LAYERS
    assert operators["QuantizeLinear"] == 9  # q, k and v share one; the last q has its own row


def test_an_optimized_bundle_quantizes_to_the_same_answers(bundle, quantized, tmp_path):
    fused = optimize(bundle, tmp_path / "opt")
    made = quantize(fused, tmp_path / "int8", max_drop=0.2)
    assert made.manifest.graphs["model"].optimized
    assert made.manifest.graphs["model"].operators["BiasGelu"] == 2
    texts = gate_sentences()[:50]
    first, second = (load(b.path).logits(texts) for b in (quantized, made))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_an_answer_is_the_same_alone_and_in_any_batch(quantized):
    model, texts = load(quantized.path), gate_sentences()[:120]
    together = np.array([s for s, _ in model.scores(texts)])
    alone = np.array([next(iter(model.scores([text])))[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-3)


def test_kept_layers_stay_in_float32(bundle, tmp_path):
    made = quantize(bundle, tmp_path / "b", keep=["layer.1.", "*query*"], max_drop=0.2)
    assert made.manifest.graphs["model"].operators["MatMulIntegerToFloat"] == 5
    assert made.manifest.history[-1].options["keep"] == ["*query*", "layer.1."]


def test_a_pattern_that_matches_nothing_is_an_error(bundle, tmp_path):
    with pytest.raises(InputError, match="no layer matches --keep classifer"):
        quantize(bundle, tmp_path / "b", keep=["classifer"])


def test_a_drop_over_the_limit_writes_nothing(tmp_path):
    bundle = spoiled_bundle(tmp_path, layers=2, attention=True)  # four layers; three may be widened
    before = sorted(tmp_path.iterdir())
    with pytest.raises(GateError, match="3 of 12 layers in float32, more than --max-drop") as error:
        quantize(bundle, tmp_path / "int8", examples=examples(bundle), max_drop=0.001)
    assert error.value.exit_code == 3
    assert sorted(tmp_path.iterdir()) == before


def test_the_layer_that_costs_most_is_widened_first(tmp_path):
    bundle = spoiled_bundle(tmp_path, layers=1, attention=False)
    made = quantize(bundle, tmp_path / "int8", examples=examples(bundle), max_drop=0.03)
    metrics = made.manifest.history[-1].metrics
    assert metrics["widened"] == ["/encoder.layer.0.output.dense/MatMul"]


def test_the_layer_that_is_ruined_ranks_first(bundle, monkeypatch):

    honest = dynamic.quantize_columns
    names = [layer.name for layer in find_layers(load_graph(bundle.file("onnx/model.onnx")))]
    seen = iter(range(len(names)))

    def crude(weights):
        integers, scales = honest(weights)
        return (integers // 16, scales * 16) if next(seen) == 4 else (integers, scales)

    monkeypatch.setattr(dynamic, "quantize_columns", crude)
    texts, row = gate_sentences()[:20], Granularity.ROW
    ranked = rank_layers(bundle, names, texts, granularity=row, progress=silent)
    assert ranked[0] == names[4] and sorted(ranked) == sorted(names)


def test_labels_decide_where_there_are_some(bundle, tmp_path):
    made = quantize(bundle, tmp_path / "b", examples=examples(bundle, wrong=True), max_drop=0)
    metrics = made.manifest.history[-1].metrics
    assert metrics["measured"] == "accuracy" and metrics["drop"] <= 0


@pytest.mark.parametrize("max_drop", [-1.5, 1.5, float("nan")])
def test_a_limit_outside_one_is_an_error(bundle, tmp_path, max_drop):
    with pytest.raises(InputError, match="max_drop"):
        quantize(bundle, tmp_path / "b", max_drop=max_drop)


def test_an_int8_bundle_is_not_quantized_again(quantized, tmp_path):
    with pytest.raises(StageError, match="int8 already"):
        quantize(quantized, tmp_path / "again")


def test_per_tensor_is_there_on_request(bundle, tmp_path):
    made = quantize(bundle, tmp_path / "b", granularity="tensor", max_drop=0.3)
    operators = made.manifest.graphs["model"].operators
    assert operators["DynamicQuantizeLinear"] == 9 and "QuantizeLinear" not in operators


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_other_heads_have_a_gate_of_their_own(problem, tmp_path):
    folder = tiny.write_bert(tmp_path / "checkpoint", problem_type=problem)
    made = export(open_checkpoint(str(folder)), tmp_path / "fp32", verify=False)
    step = quantize(made, tmp_path / "int8", max_drop=0.5).manifest.history[-1]
    assert 0 <= step.metrics["drop"] <= 0.5


@pytest.mark.parametrize("pattern", ["", " "])
def test_an_empty_pattern_is_refused(bundle, tmp_path, pattern):
    with pytest.raises(InputError, match="--keep is empty"):
        quantize(bundle, tmp_path / "b", keep=[pattern])


def test_a_token_classifier_is_widened_until_its_entities_are_alike(tmp_path, monkeypatch):
    folder = tiny.write_bert(tmp_path / "c", task="token-classification", id2label=NER)
    made = export(open_checkpoint(str(folder)), tmp_path / "fp32", verify=False)
    free = quantize(made, tmp_path / "free", max_drop=1).manifest.history[-1].metrics
    monkeypatch.setattr(gate, "ALIKE", 1.01)  # never reached: a quarter is widened, and accepted
    held = quantize(made, tmp_path / "held", max_drop=1).manifest.history[-1].metrics
    assert 0 <= free["entities"] <= 1
    assert len(held["widened"]) == LAYERS // 4 >= len(free["widened"])
