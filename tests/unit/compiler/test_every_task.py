"""export → optimize → quantize → eval and bench: one path, whatever the task."""

import json
import math
from dataclasses import asdict

import pytest

from lmonnx import load
from lmonnx.bundle.manifest import Precision, Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.quantize import quantize
from lmonnx.measure.accuracy import Columns, evaluate, read_data
from lmonnx.measure.sentences import gate_sentences
from lmonnx.measure.speed import bench
from tests import tiny

pytestmark = pytest.mark.compiler

LABELS = {
    Task.TOKEN_CLASSIFICATION: ("O", "B-PER", "I-PER"),
    Task.ZERO_SHOT_CLASSIFICATION: ("contradiction", "neutral", "entailment"),
    Task.TEXT_RANKING: ("score",),
}
SQUAD = {"data": [{"paragraphs": [{"context": "the film is good", "qas": [
    {"question": "is it good?", "answers": [{"text": "film", "answer_start": 4}]},
    {"question": "is it bad?", "answers": [], "is_impossible": True},
]}]}]}  # fmt: skip
PAIRS = "the film\tgood\t1\nnot good\tbad\t0\nthe film\tthe film is good\t0.8\na\tb\t0.3\n"
TWO = Columns(text_pair="1", label="2")
# Task → the data's file, its text, and its columns.
DATA = {
    Task.TEXT_CLASSIFICATION: ("a.tsv", "good\t0\nbad\t1\n", Columns()),
    Task.ZERO_SHOT_CLASSIFICATION: ("a.tsv", "good\tbad\tneutral\na\tb\t0\n", TWO),
    Task.TEXT_RANKING: ("a.tsv", PAIRS, TWO),
    Task.FEATURE_EXTRACTION: ("a.tsv", PAIRS, TWO),
    Task.TOKEN_CLASSIFICATION: ("a.conll", "the O\nfilm B-PER\ngood I-PER\n\nbad O\n", Columns()),
    Task.QUESTION_ANSWERING: ("a.json", json.dumps(SQUAD), Columns()),
    Task.FILL_MASK: ("a.txt", "the film is good\nnot bad a film\n", Columns()),
}
FIGURES = {
    Task.TEXT_CLASSIFICATION: "accuracy",
    Task.ZERO_SHOT_CLASSIFICATION: "accuracy",
    Task.TEXT_RANKING: "pearson",
    Task.FEATURE_EXTRACTION: "spearman",
    Task.TOKEN_CLASSIFICATION: "f1",
    Task.QUESTION_ANSWERING: "exact_match",
    Task.FILL_MASK: "accuracy",
}


@pytest.fixture(scope="module", params=DATA)
def stages(request, tmp_path_factory):
    """Give a tiny BERT of the task as float32, fused and int8."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param.value)
    labels = LABELS.get(task)
    changes = {"id2label": dict(enumerate(labels))} if labels else {}
    checkpoint = tiny.write_bert(folder / "checkpoint", task=task.value, **changes)
    opened = open_checkpoint(str(checkpoint))
    made = export(opened, folder / "fp32", task=task.value, verify=False)
    fused = optimize(made, folder / "opt")
    return made, fused, quantize(fused, folder / "int8", max_drop=1)


def data_of(bundle, folder):
    name, content, columns = DATA[bundle.manifest.task]
    (folder / name).write_text(content)
    return read_data(folder / name, bundle.manifest.task, columns)


def test_the_fused_graph_is_at_parity_and_the_int8_one_has_passed_a_gate(stages):
    _, fused, small = stages
    assert fused.manifest.history[-1].parity[0].relative <= 1e-4
    metrics = small.manifest.history[-1].metrics
    assert small.manifest.precision is Precision.INT8 and metrics["texts"] == 500
    low, high = metrics["interval"]
    assert low <= metrics["drop"] + 1e-9 and metrics["drop"] <= high + 1e-9
    assert 0 <= metrics["agreement"] <= 1 and small.bytes < fused.bytes


def test_the_tied_vocabulary_is_int8_and_the_heads_of_few_labels_are_not(stages):
    model = load_graph(stages[2].file("onnx/model.onnx"))
    stored = {tensor.name for tensor in model.graph.initializer}
    columns = {name for name in stored if name.endswith("_columns_int8")}
    tied = stages[2].manifest.task is Task.FILL_MASK
    assert columns == ({"embeddings.word_embeddings.weight_columns_int8"} if tied else set())
    assert "embeddings.word_embeddings.weight" not in stored
    assert not [name for name in stored if "classifier" in name and name.endswith("_int8")]
    assert not [name for name in stored if "qa_outputs" in name and name.endswith("_int8")]


def test_every_bundle_is_scored_on_the_tasks_own_data(stages, tmp_path):
    for made in stages:
        examples = data_of(made, tmp_path)
        result = asdict(evaluate(load(made.path), examples))
        assert result["n"] == len(examples)
        assert -1 <= result[FIGURES[made.manifest.task]] <= 1


def test_a_gate_takes_the_tasks_own_data(stages, tmp_path):
    made = stages[1]
    examples = data_of(made, tmp_path)
    metrics = quantize(made, tmp_path / "b", examples=examples, max_drop=1).manifest.history[-1]
    assert metrics.metrics["texts"] == len(examples) and math.isfinite(metrics.metrics["drop"])


def test_bench_asks_what_fits_the_task(stages):
    speed = bench(stages[2].path, gate_sentences()[:5], rounds=1, threads=1)
    assert speed.texts == 5 and speed.tokens > 5


def test_layers_that_cost_most_can_be_found(stages, tmp_path):
    from lmonnx.compiler.quantize.dynamic import Granularity
    from lmonnx.compiler.quantize.layers import find_layers
    from lmonnx.compiler.quantize.sensitivity import rank_layers
    from lmonnx.measure.sentences import fit
    from lmonnx.progress import silent

    made = stages[1]
    names = [layer.name for layer in find_layers(load_graph(made.file("onnx/model.onnx")))]
    texts = fit(gate_sentences()[:4], made.manifest)
    ranked = rank_layers(made, names, texts, granularity=Granularity.ROW, progress=silent)
    assert sorted(ranked) == sorted(names)


@pytest.mark.parity
def test_the_raw_outputs_are_transformers(stages):
    from lmonnx.compiler.verify import verify_against
    from lmonnx.measure.parity import require_parity

    made = stages[0]
    checkpoint = open_checkpoint(str(made.path.parent / "checkpoint"))
    parity = verify_against(made, checkpoint)
    require_parity(parity, made.manifest.precision)
    assert parity.texts == 100 and parity.agreement > 0.999
