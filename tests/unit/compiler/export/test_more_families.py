"""ModernBERT and DeBERTa: frozen answers without torch, int8, and one line for what is refused."""

import json

import numpy as np
import onnx
import pytest

import lmonnx
from lmonnx import StageError, UnsupportedError
from lmonnx.bundle.manifest import Precision
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export, traced
from lmonnx.compiler.export.native.relative import bucket_rows
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.quantize import quantize
from lmonnx.measure.parity import measure_parity, read_golden
from tests import tiny_more
from tests.conftest import GOLDEN

pytestmark = pytest.mark.compiler
# Products with constant weights: four a ModernBERT layer and one more in the last, which takes the
# first row's query apart; six a DeBERTa layer, and one that widens the embeddings.
LAYERS = {
    "tiny-modernbert": 13,
    "tiny-modernbert-mean": 12,
    "tiny-deberta": 12,
    "tiny-deberta-unshared": 13,
    "tiny-deberta-convolved": 12,
}


def exported(folder, name, **options):
    family, changes = tiny_more.GOLDENS[name]
    source = tiny_more.WRITERS[family](folder / "source", **changes, **options)
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_variant_answers_as_transformers(tmp_path, name, dtype):
    bundle = exported(tmp_path, name, dtype=dtype)
    parity = measure_parity(lmonnx.load(bundle.path), read_golden(GOLDEN / f"{name}.json"))
    assert parity.relative < 1e-5
    assert parity.agreement == 1


@pytest.mark.parametrize("name", LAYERS)
def test_a_graph_is_plain_and_of_the_old_opset(tmp_path, name):
    path = exported(tmp_path, name).file("onnx/model.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    model = load_graph(path)
    assert model.opset_import[0].version == 17
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("name", LAYERS)
def test_a_text_is_answered_alike_alone_and_padded(tmp_path, name):
    model = lmonnx.load(exported(tmp_path, name).path)
    texts = ["a", "not a good film", "the film is good " * 12]
    alone = np.concatenate([model.logits([text]) for text in texts])
    together = model.logits(texts)
    assert np.abs(alone - together).max() < 1e-5 * np.ptp(together)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_quantized_and_passes_its_gate(tmp_path, name, fused):
    bundle = exported(tmp_path, name)
    if fused:
        bundle = optimize(bundle, tmp_path / "opt")
    made = quantize(bundle, tmp_path / "int8", max_drop=0.2)
    assert made.manifest.precision is Precision.INT8
    assert made.manifest.graphs["model"].operators["MatMulIntegerToFloat"] == LAYERS[name]


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_checkpoint_gives_the_same_bytes(tmp_path, name):
    one, two = (exported(tmp_path / folder, name).file("onnx/model.onnx") for folder in "ab")
    assert one.read_bytes() == two.read_bytes()
    assert one.with_suffix(".onnx_data").read_bytes() == two.with_suffix(".onnx_data").read_bytes()


# What is stored, and what is made in the graph -------------------------------------------------


def weights(bundle):
    model = load_graph(bundle.file("onnx/model.onnx"))
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def test_no_constant_has_the_square_of_all_positions(tmp_path):
    source = tiny_more.write_modernbert(tmp_path / "source", max_position_embeddings=8192)
    stored = weights(export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False))
    tables = {name for name, shape in stored.items() if 8192 in shape}
    assert tables == {
        f"rotary.{theta}.{part}" for theta in (160000, 10000) for part in ("cos", "sin")
    }
    assert stored["rotary.10000.cos"] == (8192, 1, 4)


def test_one_angle_is_stored_once(tmp_path):
    source = tiny_more.write_modernbert(tmp_path / "source", local_rope_theta=160000.0)
    stored = weights(export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False))
    assert len([name for name in stored if name.startswith("rotary.")]) == 2


def test_distances_are_projected_at_export(tmp_path):
    stored = weights(exported(tmp_path, "tiny-deberta-unshared"))
    assert stored["encoder.layer.1.attention.self.pos_key_proj.distances"] == (4, 40, 8)
    assert not any(
        name.startswith(("encoder.rel_embeddings", "encoder.LayerNorm")) for name in stored
    )
    assert not any("pos_key_proj.weight" in name for name in stored)


@pytest.mark.parametrize(("types", "inputs"), [(0, 2), (2, 3)])
def test_token_types_are_an_input_where_the_model_has_them(tmp_path, types, inputs):
    source = tiny_more.write_deberta(tmp_path / "source", type_vocab_size=types)
    bundle = export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    assert len(bundle.manifest.graphs["model"].inputs) == inputs


def test_near_distances_have_their_own_row_and_far_ones_share_it():
    rows = bucket_rows(600, 256, 256, 512)
    middle = rows[600 - 128 : 600 + 129]
    assert (np.diff(middle) == 1).all() and rows[600] == 256
    assert (np.diff(rows) >= 0).all() and np.diff(rows).max() == 1
    assert (rows[0], rows[-1]) == (0, 511)
    plain = bucket_rows(600, 512, 0, 512)
    assert (plain[600 - 511 : 600 + 512] == np.arange(1, 1024)).all() and plain[0] == 0


# What would change the computation -------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "changes", "error", "said"),
    [
        ("modernbert", {"rope_scaling": {"type": "linear"}}, UnsupportedError, "'rope_scaling'"),
        ("modernbert", {"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor"),
        ("modernbert", {"classifier_pooling": "max"}, UnsupportedError, "supported: cls, mean"),
        ("modernbert", {"hidden_activation": "snake"}, UnsupportedError, "hidden_activation is"),
        ("modernbert", {"classifier_activation": "x"}, UnsupportedError, "classifier_activation"),
        ("modernbert", {"is_decoder": True}, UnsupportedError, "is_decoder is True"),
        ("modernbert", {"norm_bias": "no"}, StageError, "norm_bias is 'no'"),
        ("modernbert", {"local_attention": -1}, StageError, "local_attention is -1"),
        ("modernbert", {"global_rope_theta": 0}, StageError, "global_rope_theta is 0"),
        ("modernbert", {"global_attn_every_n_layers": 0}, StageError, "every_n_layers is 0"),
        ("modernbert", {"num_attention_heads": 32}, StageError, "so it must be even"),
        ("modernbert", {"num_attention_heads": 5}, StageError, "does not divide"),
        ("deberta-v2", {"pos_att_type": ["p2p", "c2p"]}, UnsupportedError, "pos_att_type has p2p"),
        ("deberta-v2", {"pos_att_type": 3}, StageError, "pos_att_type is 3, must be a list"),
        ("deberta-v2", {"norm_rel_ebd": "rms"}, UnsupportedError, "supported: layer_norm, none"),
        ("deberta-v2", {"position_buckets": 1}, UnsupportedError, "position_buckets is 1"),
        ("deberta-v2", {"position_buckets": 256}, UnsupportedError, "position_buckets is 256"),
        ("deberta-v2", {"attention_head_size": 16}, UnsupportedError, "attention_head_size is 16"),
        ("deberta-v2", {"pooler_hidden_size": 16}, UnsupportedError, "pooler_hidden_size is 16"),
        ("deberta-v2", {"conv_kernel_size": 2}, StageError, "conv_kernel_size is 2, must be odd"),
        ("deberta-v2", {"add_cross_attention": True}, UnsupportedError, "add_cross_attention"),
        ("deberta-v2", {"talking_head": True}, UnsupportedError, "'talking_head'"),
        ("deberta-v2", {"pooler_hidden_act": "snake"}, UnsupportedError, "pooler_hidden_act is"),
    ],
)
def test_a_config_that_is_not_built_is_refused_in_one_line(
    tmp_path, monkeypatch, family, changes, error, said
):
    monkeypatch.setattr(traced, "is_installed", lambda: False)
    source = tiny_more.WRITERS[family](tmp_path / "source")
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | changes))
    with pytest.raises(error, match=said) as caught:
        export(open_checkpoint(str(source)), tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("modernbert", "model.layers.2.attn.Wqkv.weight"),
        ("modernbert", "model.layers.1.attn_norm.weight"),
        ("modernbert", "head.norm.weight"),
        ("deberta-v2", "deberta.encoder.rel_embeddings.weight"),
        ("deberta-v2", "deberta.encoder.layer.1.attention.self.key_proj.weight"),
        ("deberta-v2", "pooler.dense.bias"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path, family, tensor):
    write = tiny_more.WRITERS[family]
    source = write(tmp_path / "source", edit=lambda arrays: arrays.pop(tensor))
    with pytest.raises(StageError, match=f"no tensor .*{tensor}"):
        export(open_checkpoint(str(source)), tmp_path / "bundle")


def test_fields_that_do_nothing_here_are_passed(tmp_path):
    inert = {
        "decoder_bias": True, "deterministic_flash_attn": False, "reference_compile": True,
        "repad_logits_with_grad": False, "sparse_prediction": False, "mlp_dropout": 0.1,
        "sparse_pred_ignore_index": -100, "embedding_dropout": 0.1, "layer_norm_eps": 1e-5,
        "initializer_cutoff_factor": 2.0, "position_embedding_type": "absolute",
    }  # fmt: skip
    source = tiny_more.write_modernbert(tmp_path / "source", **inert)
    model = lmonnx.load(export(open_checkpoint(str(source)), tmp_path / "bundle").path)
    assert measure_parity(model, read_golden(GOLDEN / "tiny-modernbert.json")).relative < 1e-5
