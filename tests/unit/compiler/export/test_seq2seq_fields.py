"""config.json of encoder-decoders: what is refused, and the buckets of T5's distances."""

import numpy as np
import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.seq2seq import SEQ2SEQS
from lmonnx.compiler.export.native.seq2seq.plan import Distances
from lmonnx.compiler.export.native.seq2seq.positions import buckets
from lmonnx.errors import StageError, UnsupportedError
from tests.tiny_seq2seq import write_marian, write_t5

pytestmark = pytest.mark.compiler

WRITERS = {"marian": write_marian, "t5": write_t5}


# What published files state beside sizes and generation.
_FAIRSEQ = {
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "add_bias_logits": False,
    "classif_dropout": 0.0,
    "decoder_layerdrop": 0.0,
    "encoder_layerdrop": 0.0,
    "extra_pos_embeddings": 2,
    "force_bos_token_to_be_generated": True,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 512,
    "num_hidden_layers": 6,
    "output_past": True,
    "prefix": " ",
    "vocab_size": 99,
    "d_model": 16,
    **{
        f"{side}_{name}": 2
        for side in ("encoder", "decoder")
        for name in ("layers", "attention_heads", "ffn_dim")
    },
}
_NORMS = ("normalize_before", "normalize_embedding", "add_final_layer_norm")
_T5 = {
    "d_ff": 8,
    "d_kv": 4,
    "d_model": 16,
    "dropout_rate": 0.1,
    "gradient_checkpointing": False,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6,
    "num_heads": 2,
    "num_layers": 2,
    "output_past": True,
    "vocab_size": 99,
}
PUBLISHED = {
    "bart": {**_FAIRSEQ, **dict(zip(_NORMS, (False, True, False), strict=True))},
    "m2m_100": _FAIRSEQ,
    "marian": {**_FAIRSEQ, **dict.fromkeys(_NORMS, False), "static_position_embeddings": True},
    "mbart": {**_FAIRSEQ, **dict.fromkeys(_NORMS, True), "static_position_embeddings": False},
    "mt5": {**_T5, "tokenizer_class": "T5Tokenizer", "is_gated_act": True},
    "pegasus": {**_FAIRSEQ, **dict(zip(_NORMS, (True, False, True), strict=True))},
    "t5": {**_T5, "n_positions": 512, "dense_act_fn": "relu"},
}


def exported(folder, family="marian", **changes):
    source = WRITERS[family](folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


@pytest.mark.parametrize("family", SEQ2SEQS)
def test_the_fields_of_published_files_are_known(family):
    config = Config(PUBLISHED[family])
    plan = SEQ2SEQS[family].read(config)
    config.finish()
    assert plan.context == {"mt5": 1024}.get(family, 512)


def test_byt5_has_more_positions_since_its_tokens_are_bytes():
    assert SEQ2SEQS["t5"].read(Config({**_T5, "tokenizer_class": "ByT5Tokenizer"})).source == 1024


@pytest.mark.parametrize(
    ("family", "changes", "error"),
    [
        ("marian", {"normalize_before": True}, "normalize_before"),
        ("marian", {"static_position_embeddings": False}, "static_position_embeddings"),
        ("marian", {"activation_function": "sine"}, "activation_function"),
        ("marian", {"new_trick": 3}, "new_trick"),
        ("t5", {"feed_forward_proj": "gated-sine"}, "feed_forward_proj"),
        ("t5", {"new_trick": 3}, "new_trick"),
    ],
)
def test_a_field_that_changes_the_computation_is_refused(tmp_path, family, changes, error):
    with pytest.raises(UnsupportedError, match=error):
        exported(tmp_path, family, **changes)


def test_a_folder_without_graphs_is_not_adopted(tmp_path):
    source = open_checkpoint(str(write_marian(tmp_path / "source")))
    with pytest.raises(UnsupportedError, match=r"has no encoder-decoder to adopt, .*found: none"):
        export(source, tmp_path / "bundle", engine=Engine.ADOPT)


def test_another_architecture_is_refused(tmp_path):
    source = open_checkpoint(str(write_marian(tmp_path / "source", model_type="fsmt")))
    said = r"'fsmt' is built here, only bart.* pip install 'lmonnx\[optimum,cpu\]', .*--engine opt"
    with pytest.raises(UnsupportedError, match=said):
        export(source, tmp_path / "bundle", task="translation")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"decoder_vocab_size": 7}, "decoder_vocab_size"),
        ({"decoder_attention_heads": 5}, "does not divide"),
        ({"decoder_start_token_id": 9999}, "no id below"),
    ],
)
def test_a_config_that_is_not_of_these_weights_is_refused(tmp_path, changes, error):
    with pytest.raises(StageError, match=error):
        exported(tmp_path, **changes)


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda arrays: arrays.pop("model.encoder.layers.1.fc1.bias"), "no tensor"),
        (lambda arrays: arrays.update(final_logits_bias=np.zeros((1, 3), np.float32)), "shape"),
    ],
)
def test_weights_that_are_not_of_this_config_are_refused(tmp_path, edit, error):
    with pytest.raises(StageError, match=error):
        exported(tmp_path, edit=edit)


def test_buckets_are_those_of_t5():
    spec = Distances("", buckets=32, farthest=128, both_ways=False)
    near_by = np.arange(0, -16, -1)
    assert buckets(near_by, spec).tolist() == list(range(16))
    assert buckets(np.array([-16, -20, -127, -128, -5000, 3]), spec).tolist() == [
        16,
        17,
        31,
        31,
        31,
        0,
    ]
    both = Distances("", buckets=32, farthest=128, both_ways=True)
    assert buckets(np.array([-200, -8, -1, 0, 1, 8, 200]), both).tolist() == [
        15,
        8,
        1,
        0,
        17,
        24,
        31,
    ]
