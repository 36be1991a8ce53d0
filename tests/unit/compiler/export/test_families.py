"""What ELECTRA, ALBERT and MPNet have of their own: shared weights, buckets, refused fields."""

import json

import numpy as np
import pytest

from lmonnx import StageError, UnsupportedError, load
from lmonnx.bundle.manifest import Precision
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.compiler.export.native.mpnet import distance_buckets
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.quantize import quantize
from tests import tiny

pytestmark = pytest.mark.compiler
# Six products a layer, and one that widens the embeddings.
LAYERS = {"electra": 13, "albert": 49, "mpnet": 12}


def exported(folder, family, **options):
    source = tiny.WRITERS[family](folder / "source", **options)
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


@pytest.mark.parametrize("family", LAYERS)
@pytest.mark.parametrize("fused", [False, True])
def test_every_layer_is_quantized_and_passes_its_gate(tmp_path, family, fused):
    bundle = exported(tmp_path, family)
    if fused:
        bundle = optimize(bundle, tmp_path / "opt")
    made = quantize(bundle, tmp_path / "int8", max_drop=0.2)
    assert made.manifest.precision is Precision.INT8
    assert made.manifest.graphs["model"].operators["MatMulIntegerToFloat"] == LAYERS[family]
    assert made.manifest.history[-1].metrics["widened"] == []


def test_a_group_of_layers_holds_its_weights_once(tmp_path):
    sizes = {"num_hidden_groups": 1, "inner_group_num": 1}
    small = exported(tmp_path / "a", "albert", **sizes, num_hidden_layers=1)
    large = exported(tmp_path / "b", "albert", **sizes, num_hidden_layers=12)
    data = [b.file("onnx/model.onnx_data").stat().st_size for b in (small, large)]
    names = [len(load_graph(b.file("onnx/model.onnx")).graph.initializer) for b in (small, large)]
    assert data[0] == data[1] and names[0] == names[1]


def test_shared_weights_are_quantized_once_and_corrected_layer_by_layer(tmp_path):
    sizes = {"num_hidden_groups": 1, "inner_group_num": 1, "num_hidden_layers": 3}
    made = quantize(exported(tmp_path, "albert", **sizes), tmp_path / "int8", max_drop=0.2)
    names = [t.name for t in load_graph(made.file("onnx/model.onnx")).graph.initializer]
    matrices = [n for n in names if n.endswith("ffn.weight_int8")]
    corrected = [n for n in names if "ffn/" in n and n.endswith("corrected")]
    assert (len(matrices), len(corrected)) == (1, 3)


def test_each_layer_takes_the_group_of_its_place(tmp_path):
    changes = {"num_hidden_layers": 5, "num_hidden_groups": 3, "inner_group_num": 1}
    bundle = exported(tmp_path, "albert", **changes)
    nodes = [n.name for n in load_graph(bundle.file("onnx/model.onnx")).graph.node]
    groups = [n.split("groups.")[1][0] for n in nodes if n.endswith("ffn/MatMul")]
    assert groups == ["0", "0", "1", "1", "2"]


def test_a_distance_has_its_bucket():
    distances = [0, -1, -7, -8, -11, -12, -15, -16, -63, -64, -90, -91, -500, 1, 8, 91, 500]
    expected = [0, 1, 7, 8, 8, 9, 9, 10, 13, 14, 14, 15, 15, 17, 24, 31, 31]
    assert distance_buckets(np.array(distances)).tolist() == expected


def test_mpnet_takes_as_many_tokens_as_its_positions_serve(tmp_path):
    bundle = exported(tmp_path, "mpnet", settings={"model_max_length": 10**6})
    assert bundle.manifest.text.max_length == tiny.POSITIONS
    assert len(load(bundle.path)("film " * 200).label) > 0


@pytest.mark.parametrize(
    ("family", "changes", "error", "said"),
    [
        ("electra", {"position_embedding_type": "relative_key"}, UnsupportedError, "relative_key"),
        ("electra", {"embedding_size": 0}, StageError, "embedding_size is 0, must be a whole"),
        ("electra", {"is_decoder": True}, UnsupportedError, "is_decoder is True, which changes"),
        ("electra", {"relative_attention_num_buckets": 32}, UnsupportedError, "not known to the"),
        ("albert", {"position_embedding_type": "relative_key"}, UnsupportedError, "relative_key"),
        ("albert", {"inner_group_num": 0}, StageError, "inner_group_num is 0, must be a whole"),
        ("albert", {"num_hidden_groups": "1"}, StageError, "num_hidden_groups is '1', must be"),
        ("albert", {"num_attention_heads": 5}, StageError, "does not divide hidden_size 32"),
        ("albert", {"summary_type": "first"}, UnsupportedError, "the field 'summary_type'"),
        ("mpnet", {"pad_token_id": 0}, UnsupportedError, "pad_token_id is 0, which changes"),
        ("mpnet", {"relative_attention_num_buckets": 16}, StageError, "must be a whole number >="),
        ("mpnet", {"type_vocab_size": 2}, UnsupportedError, "the field 'type_vocab_size'"),
    ],
)
def test_a_field_that_cannot_be_served_is_named(tmp_path, family, changes, error, said):
    source = tiny.WRITERS[family](tmp_path / "source")
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(error, match=said) as caught:
        export(
            open_checkpoint(str(source)), tmp_path / "bundle", engine=Engine.NATIVE, verify=False
        )
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
