"""Every task's graph of every family against live transformers, output by output."""

import shutil

import numpy as np
import pytest

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.errors import StageError
from lmonnx.runtime.session import Session, SessionConfig
from tests import tiny, tiny_more
from tests.tiny_more import BIASED, CONVOLVED, UNSHARED

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the range; float32 sums in another order
WRITERS = {**tiny.WRITERS, **tiny_more.WRITERS}
AUTO = {
    Task.TEXT_CLASSIFICATION: "AutoModelForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "AutoModelForTokenClassification",
    Task.QUESTION_ANSWERING: "AutoModelForQuestionAnswering",
    Task.FILL_MASK: "AutoModelForMaskedLM",
    Task.FEATURE_EXTRACTION: "AutoModel",
}
NEW = [task for task in AUTO if task is not Task.TEXT_CLASSIFICATION]


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(2)
    return torch


def live(torch, source, task):
    """Return transformers' model of a checkpoint."""
    import transformers

    auto = getattr(transformers, AUTO[task])
    return auto.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()


def bundle_of(source, folder, **options):
    return export(open_checkpoint(str(source)), folder, verify=False, **options)


def batch(names, config, seed=0):
    """Draw a padded batch of mixed lengths: the arrays of `names`, (B, S)."""
    rng = np.random.default_rng(seed)
    lengths = np.array([3, 60, 1, 17, 9])
    kept = np.arange(lengths.max()) < lengths[:, None]
    ids = np.where(kept, rng.integers(5, config.vocab_size, kept.shape), config.pad_token_id)
    # As pairs: the second text from the middle on.
    types = np.where(kept & (np.arange(lengths.max()) >= lengths[:, None] // 2), 1, 0)
    arrays = {"input_ids": ids, "attention_mask": kept, "token_type_ids": types}
    return {name: arrays[name].astype(np.int64) for name in names}


def distances(torch, source, bundle, task):
    """Return max |Δ| over the range, at tokens that are no padding, of every output."""
    model = live(torch, source, task)
    spec = bundle.manifest.graphs["model"]
    session = Session(bundle.file(spec.file), spec, SessionConfig(threads=1))
    inputs = batch(session.inputs, model.config)
    found = session.run(inputs)
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    kept = inputs["attention_mask"] == 1
    compared = {}
    for name, ours in found.items():
        theirs = expected[name].numpy()
        assert ours.shape == theirs.shape
        rows = kept if ours.shape[:2] == kept.shape else slice(None)
        compared[name] = np.abs(ours[rows] - theirs[rows]).max() / np.ptp(theirs[rows])
    return compared


OUTPUTS = {
    Task.TEXT_CLASSIFICATION: {"logits"},
    Task.TOKEN_CLASSIFICATION: {"logits"},
    Task.QUESTION_ANSWERING: {"start_logits", "end_logits"},
    Task.FILL_MASK: {"logits"},
    Task.FEATURE_EXTRACTION: {"last_hidden_state"},
}
EVERY = {
    "bert": [{"hidden_act": "relu", "num_hidden_layers": 1}, {"type_vocab_size": 4}],
    "roberta": [
        {"hidden_act": "silu", "type_vocab_size": 2},
        {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"]},
        {"model_type": "camembert", "architectures": ["CamembertForSequenceClassification"]},
    ],
    "distilbert": [{"activation": "relu", "n_layers": 1}, {"dim": 48, "n_heads": 3}],
    "electra": [{"embedding_size": 32}, {"embedding_size": 48, "hidden_act": "tanh"}],
    "albert": [
        {"num_hidden_layers": 3, "num_hidden_groups": 1, "inner_group_num": 1},
        {"num_hidden_layers": 2, "num_hidden_groups": 1, "inner_group_num": 2},
        {"embedding_size": 48, "hidden_act": "relu", "num_hidden_layers": 5,
         "num_hidden_groups": 3, "inner_group_num": 1},
    ],
    "mpnet": [{"hidden_act": "relu", "num_hidden_layers": 1}, {"layer_norm_eps": 1e-3}],
    "modernbert": [
        {"classifier_pooling": "mean", "classifier_activation": "relu"},
        {"num_hidden_layers": 1},
        {**BIASED, "norm_eps": 1e-3},
        {"decoder_bias": False, "sparse_prediction": True},
    ],
    "deberta-v2": [
        CONVOLVED, UNSHARED, {**UNSHARED, **CONVOLVED, "num_hidden_layers": 1},
        {"hidden_act": "relu", "pooler_hidden_act": "tanh", "type_vocab_size": 2},
        {"relative_attention": False, "position_biased_input": True},
    ],
}  # fmt: skip
VARIANTS = [(family, changes) for family in EVERY for changes in ({}, *EVERY[family])]


@pytest.mark.parametrize("task", NEW)
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_every_task_of_every_variant_equals_transformers(torch, tmp_path, family, changes, task):
    labels = {"num_labels": 5} if task is Task.TOKEN_CLASSIFICATION else {}
    source = WRITERS[family](tmp_path / "source", task=task, **changes, **labels)
    bundle = bundle_of(source, tmp_path / "bundle")
    assert bundle.manifest.task is task
    found = distances(torch, source, bundle, task)
    assert found.keys() == OUTPUTS[task]
    assert max(found.values()) < TOLERANCE


@pytest.mark.parametrize("family", WRITERS)
def test_a_decoder_of_its_own_equals_transformers(torch, tmp_path, family):
    source = WRITERS[family](tmp_path / "source", task="fill-mask", tie_word_embeddings=False)
    bundle = bundle_of(source, tmp_path / "bundle")
    assert max(distances(torch, source, bundle, Task.FILL_MASK).values()) < TOLERANCE


@pytest.mark.parametrize("family", WRITERS)
def test_a_tied_decoder_that_is_stored_too_is_passed_over_as_in_transformers(
    torch, tmp_path, family
):
    source = WRITERS[family](tmp_path / "source", task="fill-mask", tie_word_embeddings=False)
    path = source / "config.json"
    path.write_text(path.read_text().replace('"tie_word_embeddings": false', '"nothing": null'))
    bundle = bundle_of(source, tmp_path / "bundle")
    assert max(distances(torch, source, bundle, Task.FILL_MASK).values()) < TOLERANCE


@pytest.mark.parametrize("hidden_act", ["gelu", "relu"])
def test_the_head_that_deberta_v3_was_published_with_equals_transformers(
    torch, tmp_path, hidden_act
):
    # Where the embeddings are tied, transformers takes them for the dense layer's weights.
    changes = {"legacy": False, "tie_word_embeddings": False, "hidden_act": hidden_act}
    source = tiny_more.write_deberta(tmp_path / "source", task="fill-mask", **changes)
    bundle = bundle_of(source, tmp_path / "bundle")
    assert max(distances(torch, source, bundle, Task.FILL_MASK).values()) < TOLERANCE


@pytest.mark.parametrize("task", AUTO)
@pytest.mark.parametrize("family", WRITERS)
def test_a_checkpoint_that_transformers_saved_is_read(torch, tmp_path, family, task):
    source = WRITERS[family](tmp_path / "source", task=task)
    saved = shutil.copytree(source, tmp_path / "saved")
    model = live(torch, source, task)
    model.save_pretrained(saved)
    # Every field is written, defaults too.
    model.config.to_json_file(saved / "config.json", use_diff=False)
    bundle = bundle_of(saved, tmp_path / "bundle")
    assert bundle.manifest.task is task
    assert max(distances(torch, saved, bundle, task).values()) < TOLERANCE


@pytest.mark.parametrize("task", [task for task in AUTO if task is not Task.FEATURE_EXTRACTION])
@pytest.mark.parametrize("family", WRITERS)
def test_hidden_states_are_read_from_any_class(torch, tmp_path, family, task):
    source = WRITERS[family](tmp_path / "source", task=task)
    bundle = bundle_of(source, tmp_path / "bundle", task="feature-extraction")
    found = distances(torch, source, bundle, Task.FEATURE_EXTRACTION)
    assert max(found.values()) < TOLERANCE


@pytest.mark.parametrize("task", [task for task in AUTO if task is not Task.FEATURE_EXTRACTION])
@pytest.mark.parametrize("family", WRITERS)
def test_a_base_model_that_transformers_saved_has_no_head(torch, tmp_path, family, task):
    source = WRITERS[family](tmp_path / "source", task="feature-extraction")
    saved = shutil.copytree(source, tmp_path / "saved")
    live(torch, source, Task.FEATURE_EXTRACTION).save_pretrained(saved)
    with pytest.raises(StageError, match=f"no head for {task}"):
        bundle_of(saved, tmp_path / "bundle", task=task)


TRACED = [("bert", task) for task in AUTO] + [
    ("distilbert", Task.FILL_MASK),
    ("roberta", Task.QUESTION_ANSWERING),
    ("deberta-v2", Task.TOKEN_CLASSIFICATION),
]


@pytest.mark.parametrize(("family", "task"), TRACED)
def test_the_traced_graph_answers_as_the_native_one(torch, tmp_path, family, task):
    source = WRITERS[family](tmp_path / "source", task=task)
    for engine in (Engine.NATIVE, Engine.OPTIMUM):
        bundle = bundle_of(source, tmp_path / engine, engine=engine)
        outputs = {spec.name for spec in bundle.manifest.graphs["model"].outputs}
        assert outputs == OUTPUTS[task]
        assert max(distances(torch, source, bundle, task).values()) < TOLERANCE


@pytest.mark.parametrize("task", ["text-ranking", "zero-shot-classification"])
def test_tasks_of_the_classifiers_graph_are_traced_as_it(torch, tmp_path, task):
    labels = {"0": "entailment"} if task == "text-ranking" else {"0": "ENTAIL", "1": "no"}
    source = tiny.write_bert(tmp_path / "source", id2label=labels)
    for engine in (Engine.NATIVE, Engine.OPTIMUM):
        bundle = bundle_of(source, tmp_path / engine, engine=engine, task=task)
        found = distances(torch, source, bundle, Task.TEXT_CLASSIFICATION)
        assert max(found.values()) < TOLERANCE


def test_settings_that_are_not_built_here_are_traced(torch, tmp_path):
    def add(arrays):
        for layer in range(tiny.LAYERS):
            name = f"bert.encoder.layer.{layer}.attention.self.distance_embedding.weight"
            arrays[name] = np.full((2 * tiny.POSITIONS - 1, 8), 0.1, np.float32)

    relative = {"position_embedding_type": "relative_key", "edit": add}
    source = tiny.write_bert(tmp_path / "source", task="token-classification", **relative)
    bundle = bundle_of(source, tmp_path / "bundle")
    assert bundle.manifest.history[0].options["engine"] == "optimum"
    assert max(distances(torch, source, bundle, Task.TOKEN_CLASSIFICATION).values()) < TOLERANCE
