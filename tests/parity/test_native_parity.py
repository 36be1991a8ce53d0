"""Classifiers' graphs built here against live transformers, feature by feature."""

import csv
from pathlib import Path

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.native.mpnet import distance_buckets
from lmonnx.runtime.tokenizer import Long
from tests import tiny
from tests.texts import mixed_texts

pytestmark = pytest.mark.parity

TEXTS = [item for item in mixed_texts() if isinstance(item, str)]
PAIRS = [tuple(item) for item in mixed_texts() if isinstance(item, list)]
TOLERANCE = 1e-5  # of the range; float32 sums in another order
BATCH = 8


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(2)
    return torch


def bundle_of(source: Path, folder: Path, **options):
    return export(open_checkpoint(str(source)), folder, verify=False, **options)


def reference(torch, source: Path, texts, *, batch: int = BATCH) -> np.ndarray:
    """Return transformers' logits in padded batches, in the order given."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            chunk = list(texts[start : start + batch])
            inputs = tokenizer(chunk, padding=True, truncation=True, return_tensors="pt")
            rows.append(model(**inputs).logits.numpy())
    return np.concatenate(rows)


def distance(torch, source: Path, folder: Path, texts, **options) -> float:
    """Return max |Δlogit| over the reference's range; both must cut long text alike."""
    model = lmonnx.load(bundle_of(source, folder, **options).path, threads=2)
    expected = reference(torch, source, texts)
    found = model.logits(texts, long=Long.TRUNCATE)
    return float(np.abs(found - expected).max() / np.ptp(expected))


# Graphs ----------------------------------------------------------------------------------------

ACTIVATIONS = (
    "gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh", "mish", "quick_gelu", "relu", "sigmoid",
    "silu", "swish", "tanh",
)  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "albert", "mpnet"])
def test_every_activation_equals_transformers(torch, tmp_path, family, activation):
    field = "activation" if family == "distilbert" else "hidden_act"
    source = tiny.WRITERS[family](tmp_path / "source", **{field: activation})
    assert distance(torch, source, tmp_path / "bundle", TEXTS[::4]) < TOLERANCE


SHAPES = {
    "bert": [
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 4},
        {"num_attention_heads": 1},
        {"num_attention_heads": 16},
        {"hidden_size": 48, "num_attention_heads": 3},
        {"intermediate_size": 16},
        {"type_vocab_size": 1},
        {"type_vocab_size": 4},
        {"layer_norm_eps": 1e-3},
        {"max_position_embeddings": 512},
        {"pad_token_id": 4},
        {"vocab_size": 200},
    ],
    "roberta": [
        {"num_hidden_layers": 1},
        {"type_vocab_size": 2},
        {"num_attention_heads": 8},
        {"layer_norm_eps": 1e-12},
        {"max_position_embeddings": 130},
        {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForSequenceClassification"]},
        {"model_type": "camembert", "architectures": ["CamembertForSequenceClassification"]},
    ],
    "distilbert": [
        {"n_layers": 1},
        {"n_heads": 8},
        {"dim": 48, "n_heads": 3},
        {"hidden_dim": 16},
        {"sinusoidal_pos_embds": True},
    ],
    "electra": [
        {"num_hidden_layers": 1},
        {"embedding_size": 32},
        {"embedding_size": 48},
        {"hidden_size": 48, "num_attention_heads": 3},
        {"type_vocab_size": 4, "layer_norm_eps": 1e-3},
        {"max_position_embeddings": 512},
        {"summary_type": "last", "summary_use_proj": False, "summary_activation": "tanh"},
    ],
    "albert": [
        {"num_hidden_layers": 1, "num_hidden_groups": 1, "inner_group_num": 1},
        {"num_hidden_layers": 3, "num_hidden_groups": 1, "inner_group_num": 1},
        {"num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 1},
        {"num_hidden_layers": 5, "num_hidden_groups": 3, "inner_group_num": 1},
        {"num_hidden_layers": 2, "num_hidden_groups": 2, "inner_group_num": 1},
        {"num_hidden_layers": 3, "num_hidden_groups": 1, "inner_group_num": 3},
        {"embedding_size": 32},
        {"embedding_size": 48},
        {"hidden_size": 48, "num_attention_heads": 3},
        {"type_vocab_size": 4, "layer_norm_eps": 1e-3},
        {"max_position_embeddings": 512},
    ],
    "mpnet": [
        {"num_hidden_layers": 1},
        {"num_hidden_layers": 4},
        {"num_attention_heads": 1},
        {"hidden_size": 48, "num_attention_heads": 3},
        {"layer_norm_eps": 1e-3},
        {"max_position_embeddings": 600},
        {"relative_attention_num_buckets": 40},
    ],
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [(family, changes) for family, several in SHAPES.items() for changes in several],
    ids=str,
)
def test_every_shape_equals_transformers(torch, tmp_path, family, changes):
    settings = {"model_max_length": 10**6}
    if "model_type" in changes:  # the text side of these needs tokenizer.json, which is there
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings |= {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    settings["model_max_length"] = min(512, changes.get("max_position_embeddings", 66) - 2)
    source = tiny.WRITERS[family](tmp_path / "source", settings=settings, **changes)
    assert distance(torch, source, tmp_path / "bundle", TEXTS[::4]) < TOLERANCE


@pytest.mark.parametrize("seed", [1, 2])
def test_mpnet_answers_over_every_distance_of_its_table(torch, tmp_path, seed):
    changes = {"max_position_embeddings": 514, "settings": {"model_max_length": 512}}
    source = tiny.write_mpnet(tmp_path / "source", seed=seed, **changes)
    lengths = (512, 3, 130, 129, 65, 17, 8, 400)
    texts = [" ".join("film good bad not".split() * 128)[: 5 * count] for count in lengths]
    assert distance(torch, source, tmp_path / "bundle", texts) < TOLERANCE


def test_mpnet_has_the_buckets_of_transformers(torch):
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = np.arange(-5000, 5001)
    expected = MPNetEncoder.relative_position_bucket(torch.from_numpy(distances))
    assert (distance_buckets(distances) == expected.numpy()).all()


@pytest.mark.parametrize("family", tiny.WRITERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_pairs_equal_transformers(torch, tmp_path, family, seed):
    source = tiny.WRITERS[family](tmp_path / "source", seed=seed)
    assert distance(torch, source, tmp_path / "bundle", PAIRS) < TOLERANCE


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_left_truncation_side_cuts_as_transformers(torch, tmp_path, family):
    source = tiny.WRITERS[family](tmp_path / "source", settings={"truncation_side": "left"})
    assert distance(torch, source, tmp_path / "a", TEXTS) < TOLERANCE
    assert distance(torch, source, tmp_path / "b", PAIRS) < TOLERANCE


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_left_padding_side_gives_what_transformers_gives_a_text_alone(torch, tmp_path, family):
    # In a batch transformers would read the padding before the first token.
    source = tiny.WRITERS[family](tmp_path / "source", settings={"padding_side": "left"})
    model = lmonnx.load(bundle_of(source, tmp_path / "bundle").path)
    expected = reference(torch, source, TEXTS[::3], batch=1)
    found = model.logits(TEXTS[::3], long=Long.TRUNCATE)
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE


PROBLEMS = [
    {},
    {"num_labels": 1},
    {"num_labels": 1, "problem_type": "regression"},
    {"num_labels": 1, "problem_type": "single_label_classification"},
    {"num_labels": 3, "problem_type": "regression"},
    {"num_labels": 4, "problem_type": "multi_label_classification"},
    {"num_labels": 4, "problem_type": "single_label_classification"},
    {"id2label": {"0": "bad", "1": "so so", "2": "good"}},
]


@pytest.mark.parametrize("changes", PROBLEMS, ids=str)
def test_labels_and_scores_are_those_of_the_pipeline(torch, tmp_path, changes):
    from transformers import pipeline

    source = tiny.write_bert(tmp_path / "source", **changes)
    classify = pipeline("text-classification", model=str(source), device="cpu")
    model = lmonnx.load(bundle_of(source, tmp_path / "bundle").path)
    for text in TEXTS[60:80]:
        expected = classify(text, top_k=None, truncation=True)
        found = model(text, top_k=None, long="truncate").labels
        assert [label.label for label in found] == [e["label"] for e in expected]
        np.testing.assert_allclose([f.score for f in found], [e["score"] for e in expected], 1e-4)
    pair = {"text": "a good film", "text_pair": "not bad"}
    assert model(pair).score == pytest.approx(classify(pair)["score"], rel=1e-4)


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_checkpoint_that_transformers_saved_is_read(torch, tmp_path, family):
    import transformers

    source = tiny.WRITERS[family](tmp_path / "source")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    # Every field is written, defaults too.
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    model.config.to_json_file(saved / "config.json", use_diff=False)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(saved)
    assert distance(torch, saved, tmp_path / "bundle", TEXTS) < TOLERANCE


@pytest.mark.shared
def test_real_weights_equal_transformers_on_all_of_sst2_dev(torch, shared, tmp_path):
    source = shared / "models" / "minilm-l6-sst2"
    with (shared / "data" / "sst2" / "dev.tsv").open(encoding="utf-8") as file:
        rows = [row[0] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    model = lmonnx.load(bundle_of(source, tmp_path / "bundle").path, threads=2)
    found, expected = model.logits(rows), reference(torch, source, rows, batch=32)
    assert len(rows) > 800
    assert np.abs(found - expected).max() / np.ptp(expected) <= 1e-4
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()
