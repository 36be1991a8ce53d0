"""ModernBERT and DeBERTa built here against live transformers, variant by variant."""

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.export.native.modernbert import rotary_tables
from lmonnx.compiler.export.native.relative import bucket_rows
from lmonnx.runtime.tokenizer import Long
from tests import tiny_more
from tests.parity.test_native_parity import PAIRS, PROBLEMS, TEXTS, bundle_of, distance, reference
from tests.tiny_more import BIASED, CONVOLVED, UNSHARED

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the range; float32 sums in another order


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(2)
    return torch


MODERNBERT = [
    {},
    {"classifier_pooling": "mean"},
    {"global_attn_every_n_layers": 1},
    {"global_attn_every_n_layers": 2},
    {"global_attn_every_n_layers": 2, "classifier_pooling": "mean"},
    {"global_attn_every_n_layers": 7, "num_hidden_layers": 5},
    {"num_hidden_layers": 1},
    {"num_hidden_layers": 1, "classifier_pooling": "mean"},
    {"num_hidden_layers": 4},
    {"local_attention": 0},
    {"local_attention": 1},
    {"local_attention": 7},
    {"local_attention": 128},
    {"local_attention": 8, "max_position_embeddings": 512},
    {"local_attention": 8, "max_position_embeddings": 512, "classifier_pooling": "mean"},
    {"local_rope_theta": 160000.0},
    {"local_rope_theta": 500.0, "global_rope_theta": 7000.0},
    {"local_rope_theta": None},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"norm_bias": True},
    {"classifier_bias": True},
    BIASED,
    {**BIASED, "classifier_pooling": "mean", "norm_eps": 1e-3},
    {"hidden_activation": "silu", "classifier_activation": "relu"},
    {"hidden_activation": "gelu_pytorch_tanh", "classifier_activation": "tanh"},
    {"hidden_size": 48, "num_attention_heads": 3},
    {"num_attention_heads": 1},
    {"num_attention_heads": 16},
]
DEBERTA = [
    {},
    CONVOLVED,
    UNSHARED,
    {**UNSHARED, **CONVOLVED},
    {"pos_att_type": ["c2p"]},
    {"pos_att_type": ["p2c"]},
    {"pos_att_type": []},
    {"pos_att_type": "p2c|c2p"},
    {**UNSHARED, "pos_att_type": ["c2p"]},
    {**UNSHARED, "pos_att_type": ["p2c"]},
    {"relative_attention": False, "position_biased_input": True},
    {"share_att_key": False},
    {"norm_rel_ebd": "none"},
    {"position_buckets": -1},
    {"position_buckets": -1, "max_relative_positions": 5},
    {"position_buckets": 4},
    {"position_buckets": 7, "max_relative_positions": 20},
    {"position_buckets": 32, "max_relative_positions": 40},
    {"position_buckets": 256, "max_position_embeddings": 512},
    {"position_biased_input": True},
    {"type_vocab_size": 2},
    {"type_vocab_size": 3, "position_biased_input": True},
    {"embedding_size": 16},
    {"embedding_size": 48, "type_vocab_size": 2},
    {"num_hidden_layers": 1},
    {"num_hidden_layers": 1, **CONVOLVED},
    {"num_hidden_layers": 4},
    {"conv_kernel_size": 1},
    {"conv_kernel_size": 5, "conv_groups": 4},
    {"conv_kernel_size": 3, "conv_act": "sigmoid"},
    {"hidden_size": 48, "num_attention_heads": 3},
    {"num_attention_heads": 1},
    {"num_attention_heads": 16},
    {"hidden_act": "gelu_new", "pooler_hidden_act": "tanh", "layer_norm_eps": 1e-3},
    {"legacy": False, "pooler_dropout": 0.2, "cls_dropout": 0.1},
]
VARIANTS = [("modernbert", changes) for changes in MODERNBERT]
VARIANTS += [("deberta-v2", changes) for changes in DEBERTA]


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_every_variant_equals_transformers_in_padded_batches(torch, tmp_path, family, changes):
    limit = changes.get("max_position_embeddings", 64)
    source = write(family, tmp_path / "source", changes, {"model_max_length": limit})
    assert distance(torch, source, tmp_path / "a", TEXTS[::3]) < TOLERANCE
    assert distance(torch, source, tmp_path / "b", PAIRS[::2]) < TOLERANCE


def write(family, folder, changes, settings=None):
    """Write a checkpoint; a field that is None is written as null."""
    source = tiny_more.WRITERS[family](folder, settings=settings, **changes)
    if nulls := [name for name, value in changes.items() if value is None]:
        path = source / "config.json"
        extra = "".join(f',\n "{name}": null' for name in nulls)
        path.write_text(path.read_text().rstrip().removesuffix("}").rstrip() + extra + "\n}")
    return source


@pytest.mark.parametrize("family", tiny_more.WRITERS)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_text_equals_transformers(torch, tmp_path, family, seed):
    source = tiny_more.WRITERS[family](tmp_path / "source", seed=seed)
    assert distance(torch, source, tmp_path / "bundle", TEXTS) < TOLERANCE


@pytest.mark.parametrize("changes", PROBLEMS, ids=str)
@pytest.mark.parametrize("family", tiny_more.WRITERS)
def test_heads_equal_transformers(torch, tmp_path, family, changes):
    source = tiny_more.WRITERS[family](tmp_path / "source", **changes)
    assert distance(torch, source, tmp_path / "bundle", TEXTS[::6]) < TOLERANCE


@pytest.mark.parametrize(("family", "changes"), tiny_more.GOLDENS.values(), ids=str)
def test_a_checkpoint_that_transformers_saved_is_read(torch, tmp_path, family, changes):
    import transformers

    source = tiny_more.WRITERS[family](tmp_path / "source", **changes)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    # Every field is written, defaults too.
    model.config.to_json_file(saved / "config.json", use_diff=False)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(saved)
    assert distance(torch, saved, tmp_path / "bundle", TEXTS[::2]) < TOLERANCE


@pytest.mark.parametrize("changes", [{}, CONVOLVED, UNSHARED], ids=["v3", "convolved", "unshared"])
def test_a_row_that_is_all_padding_is_computed_as_in_transformers(torch, tmp_path, changes):
    from transformers import AutoModelForSequenceClassification

    source = tiny_more.write_deberta(tmp_path / "source", **changes)
    model = lmonnx.load(bundle_of(source, tmp_path / "bundle").path)
    ids = np.random.default_rng(0).integers(0, 100, (3, 21))
    mask = np.ones_like(ids)
    mask[1] = 0
    mask[2, 9:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    if "type_vocab_size" in changes:
        inputs["token_type_ids"] = ids % 2
    found = model.session.run(inputs)["logits"]
    theirs = AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.no_grad():
        expected = theirs(**{k: torch.tensor(v) for k, v in inputs.items()}).logits.numpy()
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE


@pytest.mark.parametrize("theta", [160000.0, 10000.0])
def test_rotary_tables_are_those_of_torch(torch, theta):
    from transformers import ModernBertConfig
    from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

    config = ModernBertConfig(hidden_size=768, num_attention_heads=12, global_rope_theta=theta)
    places = torch.arange(8192)[None]
    theirs = ModernBertRotaryEmbedding(config)(torch.zeros(1), places)
    for expected, found in zip(theirs, rotary_tables(8192, 64, theta), strict=True):
        assert np.abs(expected[0, :, :32].numpy() - found).max() < 1e-6


@pytest.mark.parametrize("buckets", [2, 3, 7, 12, 32, 64, 128, 256, 320, 512])
@pytest.mark.parametrize("farthest", [20, 64, 129, 257, 512, 513, 1024])
def test_buckets_are_those_of_transformers(torch, buckets, farthest):
    from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

    if buckets // 2 + 1 >= farthest:
        pytest.skip("refused")
    size = torch.zeros(1, 700, 1)
    theirs = build_relative_position(size, size, buckets, farthest)[0].numpy()
    expected = np.clip(theirs + buckets, 0, 2 * buckets - 1)
    places = np.arange(700)
    found = bucket_rows(700, buckets, buckets, farthest)
    np.testing.assert_array_equal(expected, found[places[:, None] - places + 700])


@pytest.mark.parametrize("family", tiny_more.WRITERS)
def test_a_text_alone_equals_transformers(torch, tmp_path, family):
    source = tiny_more.WRITERS[family](tmp_path / "source")
    model = lmonnx.load(bundle_of(source, tmp_path / "bundle").path)
    expected = reference(torch, source, TEXTS[::5], batch=1)
    found = np.concatenate([model.logits([t], long=Long.TRUNCATE) for t in TEXTS[::5]])
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE
