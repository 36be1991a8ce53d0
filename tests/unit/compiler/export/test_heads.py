"""Every task of every family: built, described, or refused in a line."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export, traced
from lmonnx.compiler.export.native import FAMILIES
from lmonnx.compiler.graph import load_graph
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.runtime.session import Session, SessionConfig
from tests import tiny, tiny_more

pytestmark = pytest.mark.compiler

WRITERS = {**tiny.WRITERS, **tiny_more.WRITERS}
GENERATED = {Task.TEXT_GENERATION, Task.TRANSLATION, Task.SUMMARIZATION, Task.TEXT_TO_TEXT}
ENCODER_TASKS = [task for task in Task if task not in GENERATED]
TOKENS = ("batch_size", "sequence_length")
ENTAILS = {"0": "contradiction", "1": "neutral", "2": "Entailment"}


def write(folder, family, task, **changes):
    """Write a checkpoint whose labels fit the task."""
    fitting = {Task.TEXT_RANKING: {"num_labels": 1}, Task.ZERO_SHOT_CLASSIFICATION: {
        "id2label": ENTAILS}, Task.TOKEN_CLASSIFICATION: {"num_labels": 5}}  # fmt: skip
    return WRITERS[family](folder, task=task, **{**fitting.get(task, {}), **changes})


def exported(folder, family, task, **changes):
    source = write(folder / "source", family, task, **changes)
    return export(open_checkpoint(str(source)), folder / "bundle", task=task, verify=False)


def opened(folder, **changes):
    """Return a BERT checkpoint whose config.json has other fields."""
    source = tiny.write_bert(folder / "source")
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | changes))
    return open_checkpoint(str(source))


# What is built ---------------------------------------------------------------------------------


def shapes(task, config):
    """Return what the manifest must say of the outputs."""
    hidden = config.get("dim", config.get("hidden_size"))
    return {
        Task.TEXT_CLASSIFICATION: {"logits": ("batch_size", 2)},
        Task.ZERO_SHOT_CLASSIFICATION: {"logits": ("batch_size", 3)},
        Task.TEXT_RANKING: {"logits": ("batch_size", 1)},
        Task.TOKEN_CLASSIFICATION: {"logits": (*TOKENS, 5)},
        Task.QUESTION_ANSWERING: {"start_logits": TOKENS, "end_logits": TOKENS},
        Task.FILL_MASK: {"logits": (*TOKENS, config["vocab_size"])},
        Task.FEATURE_EXTRACTION: {"last_hidden_state": (*TOKENS, hidden)},
    }[task]


@pytest.mark.parametrize("task", ENCODER_TASKS)
@pytest.mark.parametrize("family", WRITERS)
def test_every_task_is_built_and_described(tmp_path, family, task):
    bundle = exported(tmp_path, family, task)
    spec = bundle.manifest.graphs["model"]
    onnx.checker.check_model(str(bundle.file(spec.file)), full_check=True)
    config = json.loads((tmp_path / "source" / "config.json").read_text())
    assert {output.name: output.shape for output in spec.outputs} == shapes(task, config)
    assert {output.dtype for output in spec.outputs} == {"float32"}
    assert bundle.manifest.task is task


def test_every_family_has_every_task():
    assert all(family.heads.keys() == set(ENCODER_TASKS) for family in FAMILIES.values())


@pytest.mark.parametrize("task", [t for t in ENCODER_TASKS if t is not Task.TEXT_RANKING])
@pytest.mark.parametrize("family", WRITERS)
def test_a_text_is_answered_alike_alone_and_padded(tmp_path, family, task):
    bundle = exported(tmp_path, family, task)
    spec = bundle.manifest.graphs["model"]
    session = Session(bundle.file(spec.file), spec, SessionConfig(threads=1))
    ids = np.random.default_rng(0).integers(5, 60, (3, 40))
    mask = (np.arange(40) < np.array([[5], [40], [17]])).astype(np.int64)
    pad = bundle.manifest.text.source.pad_id
    inputs = {"input_ids": np.where(mask == 1, ids, pad), "attention_mask": mask}
    inputs["token_type_ids"] = np.zeros_like(mask)
    inputs = {name: inputs[name] for name in session.inputs}
    together = session.run(inputs)
    alone = session.run({name: array[:1, :5] for name, array in inputs.items()})
    for name, (found,) in alone.items():
        expected = (
            together[name][0] if found.shape == together[name][0].shape else together[name][0, :5]
        )
        assert np.abs(found - expected).max() < 2e-5 * np.ptp(together[name])


# The tied table --------------------------------------------------------------------------------


def data_size(bundle):
    return bundle.file("onnx/model.onnx_data").stat().st_size


@pytest.mark.parametrize("family", WRITERS)
def test_the_table_of_a_tied_decoder_is_stored_once(tmp_path, family):
    tied = exported(tmp_path / "a", family, Task.FILL_MASK)
    untied = exported(tmp_path / "b", family, Task.FILL_MASK, tie_word_embeddings=False)
    graph = load_graph(tied.file("onnx/model.onnx")).graph
    (product,) = [n for n in graph.node if any(a.name == "transB" for a in n.attribute)]
    lookups = [n for n in graph.node if n.op_type == "Gather" and n.input[0] == product.input[1]]
    assert product.op_type == "Gemm" and len(lookups) == 1
    (table,) = [t for t in graph.initializer if t.name == product.input[1]]
    extra = data_size(untied) - data_size(tied)
    assert 0 <= extra - 4 * int(np.prod(table.dims)) < 4096


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bert", "/cls.predictions.decoder/Gemm"),
        ("roberta", "/lm_head.decoder/Gemm"),
        ("distilbert", "/vocab_projector/Gemm"),
        ("electra", "/generator_lm_head/Gemm"),
        ("albert", "/predictions.decoder/Gemm"),
        ("modernbert", "/decoder/Gemm"),
    ],
)
def test_the_product_with_the_vocabulary_is_named_after_its_module(tmp_path, family, name):
    bundle = exported(tmp_path, family, Task.FILL_MASK)
    nodes = load_graph(bundle.file("onnx/model.onnx")).graph.node
    assert [n.name for n in nodes if any(a.name == "transB" for a in n.attribute)] == [name]


def test_a_bias_may_be_stored_under_the_decoders_name(tmp_path):
    def rename(arrays):
        arrays["cls.predictions.decoder.bias"] = arrays.pop("cls.predictions.bias")

    one = exported(tmp_path / "a", "bert", Task.FILL_MASK)
    two = exported(tmp_path / "b", "bert", Task.FILL_MASK, edit=rename)
    paths = [bundle.file("onnx/model.onnx_data") for bundle in (one, two)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


# What has no head, and settings ----------------------------------------------------------------

HEADLESS = [t for t in ENCODER_TASKS if t is not Task.FEATURE_EXTRACTION]


@pytest.mark.parametrize("task", HEADLESS)
@pytest.mark.parametrize("family", WRITERS)
def test_a_base_model_has_no_head(tmp_path, family, task):
    labels = {"num_labels": 1} if task is Task.TEXT_RANKING else {}
    labels |= {"id2label": ENTAILS} if task is Task.ZERO_SHOT_CLASSIFICATION else {}
    source = WRITERS[family](tmp_path / "source", task="feature-extraction", **labels)
    said = rf"no tensor [\w.]+\.weight, so it has no head for {task}; .*--task feature-extraction"
    with pytest.raises(StageError, match=said) as caught:
        export(open_checkpoint(str(source)), tmp_path / "bundle", task=task, verify=False)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_untied_decoder_that_is_missing_is_named(tmp_path):
    source = tiny.write_bert(tmp_path / "source", task="fill-mask")
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | {"tie_word_embeddings": False}))
    with pytest.raises(StageError, match=r"no tensor cls\.predictions\.decoder\.weight"):
        export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)


@pytest.mark.parametrize(
    ("name", "default"),
    [("hidden_act", "'gelu'"), ("position_embedding_type", "'absolute'"), ("type_vocab_size", 2)],
)
def test_null_is_no_default(tmp_path, name, default):
    checkpoint = opened(tmp_path, **{name: None})
    with pytest.raises(StageError, match=f"{name} is null, which is not its default {default}"):
        export(checkpoint, tmp_path / "bundle", verify=False)


@pytest.mark.parametrize(
    "name", ["pad_token_id", "is_decoder", "pruned_heads", "classifier_dropout"]
)
def test_null_is_passed_where_it_does_nothing(tmp_path, name):
    export(opened(tmp_path, **{name: None}), tmp_path / "bundle", verify=False)


def test_settings_of_another_tasks_head_are_passed(tmp_path):
    other = {"classifier_pooling": "odd", "classifier_activation": "odd"}
    source = tiny_more.write_modernbert(tmp_path / "source", task="feature-extraction", **other)
    export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)


@pytest.mark.parametrize("installed", [True, False])
def test_settings_that_are_not_built_here_go_to_the_tracing_engine(
    tmp_path, monkeypatch, installed
):
    monkeypatch.setattr(traced, "is_installed", lambda: installed)
    tried = []
    monkeypatch.setattr(traced, "_trace", lambda *given: tried.append(given[1]))
    checkpoint = opened(tmp_path, position_embedding_type="relative_key")
    said = "no model.onnx to adopt" if installed else "relative_key"
    with pytest.raises(UnsupportedError, match=said):
        export(checkpoint, tmp_path / "bundle", verify=False)
    assert tried == [Task.TEXT_CLASSIFICATION] * installed
    with pytest.raises(UnsupportedError, match="relative_key"):
        export(checkpoint, tmp_path / "bundle", engine=Engine.NATIVE, verify=False)


# What is adopted ------------------------------------------------------------------------------

OUTPUTS = {
    Task.TOKEN_CLASSIFICATION: ["logits"],
    Task.QUESTION_ANSWERING: ["start_logits", "end_logits"],
    Task.FILL_MASK: ["logits"],
    Task.FEATURE_EXTRACTION: ["last_hidden_state"],
}


def graph_of(folder: Path, task: Task) -> onnx.ModelProto:
    """Export a task's graph natively; leave the checkpoint without weights in `folder`."""
    source = tiny.write_bert(folder, task=task)
    bundle = export(open_checkpoint(str(source)), folder.with_name("made"), verify=False)
    (folder / "model.safetensors").unlink()
    made = onnx.load(bundle.file("onnx/model.onnx"))
    shutil.rmtree(bundle.path)
    return made


def adopted(folder, **options):
    return export(
        open_checkpoint(str(folder / "source")), folder / "bundle", verify=False, **options
    )


@pytest.mark.parametrize("task", OUTPUTS)
def test_every_task_is_adopted_under_the_files_names(tmp_path, task):
    onnx.save(graph_of(tmp_path / "source", task), tmp_path / "source" / "model.onnx")
    manifest = adopted(tmp_path).manifest
    assert [o.name for o in manifest.graphs["model"].outputs] == OUTPUTS[task]
    assert manifest.task is task


@pytest.mark.parametrize("name", ["token_embeddings", "sentence_embedding"])
def test_the_outputs_of_sentence_transformers_are_adopted(tmp_path, name):
    model = graph_of(tmp_path / "source", Task.FEATURE_EXTRACTION)
    model.graph.node[-1].output[0] = model.graph.output[0].name = name
    if name == "sentence_embedding":
        model.graph.node[-1].CopyFrom(
            helper.make_node(
                "ReduceMean", [model.graph.node[-1].input[0]], [name], axes=[1], keepdims=0
            )
        )
        del model.graph.output[0].type.tensor_type.shape.dim[1]
    onnx.save(model, tmp_path / "source" / "model.onnx")
    (output,) = adopted(tmp_path).manifest.graphs["model"].outputs
    assert output.name == name


def test_logits_of_tokens_are_no_logits_of_a_text(tmp_path):
    model = graph_of(tmp_path / "source", Task.TOKEN_CLASSIFICATION)
    onnx.save(model, tmp_path / "source" / "model.onnx")
    config = tmp_path / "source" / "config.json"
    config.write_text(
        config.read_text().replace("BertForTokenClassification", "BertForPreTraining")
    )
    with pytest.raises(UnsupportedError, match=r"logits \(3 axes\); .* gives logits \(2 axes\)"):
        adopted(tmp_path, task="text-classification")
