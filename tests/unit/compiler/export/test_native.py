"""config.json and weights → a graph that answers as transformers, or one line that says why not."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import lmonnx
from lmonnx.bundle.manifest import Activation, Side
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export, traced
from lmonnx.errors import LmonnxError, StageError, UnsupportedError
from lmonnx.measure.parity import measure_parity, read_golden
from tests import tiny

pytestmark = pytest.mark.compiler

GOLDEN = Path(__file__).parents[3] / "golden"
FORMS = ("safetensors", "sharded", "bin", "sharded-bin")
QUERY = {
    "bert": "bert.encoder.layer.1.attention.self.query.weight",
    "roberta": "roberta.encoder.layer.1.attention.self.query.weight",
    "distilbert": "distilbert.transformer.layer.1.attention.q_lin.weight",
    "electra": "electra.encoder.layer.1.attention.self.query.weight",
    "albert": "albert.encoder.albert_layer_groups.1.albert_layers.0.attention.query.weight",
    "mpnet": "mpnet.encoder.layer.1.attention.attn.q.weight",
}


def exported(folder: Path, family: str = "bert", **options):
    """Write a tiny checkpoint, export it and load the bundle."""
    source = tiny.WRITERS[family](folder / f"tiny-{family}", **options)
    bundle = export(open_checkpoint(str(source)), folder / "bundle")
    return lmonnx.load(bundle.path, threads=1)


def refused(folder: Path, error: type[LmonnxError], said: str, family: str = "bert", **options):
    """Assert one line of ours, and nothing left beside the checkpoint."""
    with pytest.raises(error, match=said) as caught:
        exported(folder, family, **options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == [f"tiny-{family}"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", tiny.WRITERS)
def test_every_family_type_and_file_answers_as_transformers(tmp_path, family, dtype, form):
    model = exported(tmp_path, family, dtype=dtype, form=form)
    parity = measure_parity(model, read_golden(GOLDEN / f"tiny-{family}.json"))
    assert parity.relative < 1e-5
    assert parity.agreement == 1


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_graph_is_plain_old_and_holds_no_weight_twice(tmp_path, family):
    bundle = exported(tmp_path, family).bundle
    path = bundle.file("onnx/model.onnx")
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(str(path))
    assert 17 <= model.opset_import[0].version <= 20
    assert model.ir_version <= 10
    assert {node.domain for node in model.graph.node} == {""}
    arrays = sum(a.nbytes for a in tiny_arrays(tmp_path / f"tiny-{family}"))
    assert bundle.file("onnx/model.onnx_data").stat().st_size < arrays + 40 * 4096


def tiny_arrays(folder: Path) -> list[np.ndarray]:
    weights = open_checkpoint(str(folder)).weights()
    return [weights.read(name) for name in weights]


def test_weights_outside_the_graph_are_aligned(tmp_path):
    path = exported(tmp_path).bundle.file("onnx/model.onnx")
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        step = 4096 if int(place.get("length", 0)) >= 4096 else 64
        assert int(place.get("offset", 0)) % step == 0


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    for name in "ab":
        exported(tmp_path / name)
    for path in sorted((tmp_path / "a" / "bundle").rglob("*.*")):
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        if path.is_file():
            assert path.read_bytes() == other.read_bytes(), path.name


def test_the_manifest_says_where_it_comes_from_and_how_it_is_run(tmp_path):
    source = tiny.write_roberta(tmp_path / "tiny-roberta", id2label={"0": "no", "1": "yes"})
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    manifest = export(open_checkpoint(str(source)), tmp_path / "bundle").manifest
    assert (manifest.source.repo, manifest.source.license) == ("tiny-roberta", "mit")
    assert manifest.source.architecture == "roberta"
    assert manifest.head.labels == ("no", "yes")
    assert (manifest.text.max_length, manifest.text.source.pad_id) == (64, 1)
    (step,) = manifest.history
    assert (step.stage, step.options["engine"]) == ("export", "native")
    assert str(tmp_path) not in manifest.to_json()


# Heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "activation", "classes"),
    [
        ({}, Activation.SOFTMAX, 2),
        ({"num_labels": 3}, Activation.SOFTMAX, 3),
        ({"num_labels": 1}, Activation.SIGMOID, 1),
        ({"num_labels": 1, "problem_type": "regression"}, Activation.NONE, 1),
        ({"num_labels": 3, "problem_type": "regression"}, Activation.NONE, 3),
        ({"num_labels": 1, "problem_type": "single_label_classification"}, Activation.SIGMOID, 1),
        ({"num_labels": 5, "problem_type": "multi_label_classification"}, Activation.SIGMOID, 5),
        ({"num_labels": 5, "problem_type": "single_label_classification"}, Activation.SOFTMAX, 5),
        ({"id2label": {"1": "b", "0": "a", "2": "c"}}, Activation.SOFTMAX, 3),
    ],
)
@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_head_has_the_activation_of_its_problem(tmp_path, family, changes, activation, classes):
    model = exported(tmp_path, family, **changes)
    assert model.head.activation is activation
    assert len(model.head.labels) == classes
    assert len(model("a good film", top_k=None).labels) == classes


def test_labels_stand_in_the_order_of_their_ids(tmp_path):
    named = {"2": "c", "0": "a", "1": "b"}
    assert exported(tmp_path, id2label=named).head.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"problem_type": "ranking"}, UnsupportedError, "problem_type is 'ranking', must be one"),
        ({"id2label": {"0": "a", "2": "c"}}, StageError, "name every class from 0 on"),
        ({"id2label": {"x": "a"}}, StageError, "name every class from 0 on"),
        ({"id2label": {}}, StageError, "names no label"),
        ({"id2label": ["a"]}, StageError, "names no label"),
        ({"num_labels": 0}, StageError, "num_labels is 0"),
        ({"num_labels": "2"}, StageError, "num_labels is '2'"),
    ],
)
def test_a_head_that_cannot_be_read_is_refused(tmp_path, changes, error, said):
    source = tiny.write_bert(tmp_path / "tiny-bert")
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | changes))
    with pytest.raises(error, match=said):
        export(open_checkpoint(str(source)), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


# What would change the computation -------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.WRITERS)
@pytest.mark.parametrize("value", [1, True, "x", {"a": 1}, [0], 0, False])
def test_an_unknown_field_is_named(tmp_path, family, value):
    said = "the field 'rotary_dim' .* may change the computation"
    refused(tmp_path, UnsupportedError, said, family, rotary_dim=value)


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_fields_that_are_private_or_known_to_do_nothing_are_passed(tmp_path, family):
    inert = {
        "_name_or_path": "x", "_num_labels": 2, "transformers_version": "4.0", "use_cache": True,
        "torch_dtype": "float16", "is_decoder": False, "is_encoder_decoder": False,
        "add_cross_attention": False, "pruned_heads": {}, "tf_legacy_loss": False,
        "use_bfloat16": False, "tie_encoder_decoder": False, "gradient_checkpointing": True,
    }  # fmt: skip
    source = tiny.WRITERS[family](tmp_path / f"tiny-{family}")
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | inert | {"nothing": None}))
    model = lmonnx.load(export(open_checkpoint(str(source)), tmp_path / "bundle").path)
    assert measure_parity(model, read_golden(GOLDEN / f"tiny-{family}.json")).relative < 1e-5


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_an_unknown_activation_is_refused_with_the_known_ones(tmp_path, family):
    field = "activation" if family == "distilbert" else "hidden_act"
    said = f"{field} is 'snake'; supported: gelu, .*tanh"
    refused(tmp_path, UnsupportedError, said, family, **{field: "snake"})


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"position_embedding_type": "relative_key"}, UnsupportedError, "changes the computation"),
        ({"position_embedding_type": "relative_key_query"}, UnsupportedError, "relative_key_query"),
        ({"is_decoder": True}, UnsupportedError, "is_decoder is True, which changes"),
        ({"add_cross_attention": True}, UnsupportedError, "add_cross_attention is True"),
        ({"pruned_heads": {"0": [1]}}, UnsupportedError, "pruned_heads is"),
        ({"num_attention_heads": 5}, StageError, "is 5, which does not divide hidden_size 32"),
        ({"num_hidden_layers": 3}, StageError, r"no tensor bert\.encoder\.layer\.2"),
        ({"num_hidden_layers": 0}, StageError, "num_hidden_layers is 0, must be a whole number"),
        ({"layer_norm_eps": 0}, StageError, "layer_norm_eps is 0, must be a number above 0"),
        ({"layer_norm_eps": "1e-12"}, StageError, "layer_norm_eps is '1e-12'"),
        ({"hidden_act": ["gelu"]}, UnsupportedError, r"hidden_act is \['gelu'\]"),
        ({"intermediate_size": 63}, StageError, r"has the shape \(64, 32\), .* \(63, 32\)"),
        (
            {"type_vocab_size": 3},
            StageError,
            r"token_type_embeddings.weight has the shape \(2, 32\)",
        ),
        ({"model_type": "funnel"}, UnsupportedError, "does not build 'funnel', only albert, bert"),
        ({"architectures": ["BertForPreTraining"]}, UnsupportedError, "names BertForPre"),
        ({"architectures": []}, UnsupportedError, "names no class.*--task chooses one"),
        ({"hidden_size": None}, StageError, "lacks hidden_size"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, monkeypatch, changes, error, said):
    monkeypatch.setattr(traced, "is_installed", lambda: False)
    source = tiny.write_bert(tmp_path / "tiny-bert")
    stored = json.loads((source / "config.json").read_text()) | changes
    kept = {name: value for name, value in stored.items() if value is not None}
    (source / "config.json").write_text(json.dumps(kept))
    with pytest.raises(error, match=said) as caught:
        export(open_checkpoint(str(source)), tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-bert"]


@pytest.mark.parametrize("installed", [True, False])
def test_a_checkpoint_without_a_class_is_exported_natively_for_the_task_asked(
    tmp_path, monkeypatch, installed
):
    monkeypatch.setattr(traced, "is_installed", lambda: installed)
    checkpoint = open_checkpoint(str(tiny.write_bert(tmp_path / "tiny-bert", architectures=None)))
    bundle = export(checkpoint, tmp_path / "bundle", task="text-classification")
    assert bundle.manifest.history[0].options["engine"] == "native"


def test_the_tracing_engine_says_which_extra_brings_it(tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "is_installed", lambda: False)
    checkpoint = open_checkpoint(str(tiny.write_bert(tmp_path / "tiny-bert")))
    with pytest.raises(UnsupportedError, match=r"pip install 'lmonnx\[optimum,cpu\]'"):
        export(checkpoint, tmp_path / "bundle", engine=Engine.OPTIMUM)


# Padding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_padding_on_the_left_is_not_taken_over(tmp_path, family):
    # These models read their first token; before it, padding would be read in its place.
    model = exported(tmp_path, family, settings={"padding_side": "left"})
    assert model.bundle.manifest.text.source.padding_side is Side.RIGHT
    assert measure_parity(model, read_golden(GOLDEN / f"tiny-{family}.json")).relative < 1e-5


@pytest.mark.parametrize("pair", [False, True])
def test_a_left_truncation_side_keeps_the_end(tmp_path, pair):
    model = exported(tmp_path, settings={"truncation_side": "left"})
    words = "film good bad not the".split()
    long = " ".join(words * 20)
    end = long.split()[-62:]
    if pair:
        answer = model((long, "good"), long="truncate")
        assert answer.score == pytest.approx(model((" ".join(end[-60:]), "good")).score, abs=1e-6)
    else:
        assert model(long, long="truncate").score == pytest.approx(model(" ".join(end)).score)
