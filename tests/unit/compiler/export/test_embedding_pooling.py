"""How vectors of tokens become one: files, graphs, what is asked for, and the whole export."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import lmonnx
from lmonnx.bundle.manifest import Pooling
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.errors import InputError, StageError, UnsupportedError
from tests import tiny
from tests.embedder_files import (
    FROZEN,
    MEAN,
    OLD,
    E,
    graph,
    refused,
    spec_of,
    write_json,
    write_modules,
)

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, (Pooling.CLS,)),
        ({"pooling_mode_mean_tokens": True}, (Pooling.MEAN,)),
        ({"pooling_mode_max_tokens": True}, (Pooling.MAX,)),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, (Pooling.MEAN_SQRT,)),
        ({"pooling_mode_weightedmean_tokens": True}, (Pooling.WEIGHTED_MEAN,)),
        ({"pooling_mode_lasttoken": True}, (Pooling.LAST,)),
        (
            {
                "pooling_mode_lasttoken": True,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": True,
                "pooling_mode_cls_token": True,
            },
            (Pooling.CLS, Pooling.MAX, Pooling.MEAN, Pooling.LAST),
        ),
        ({"pooling_mode_mean_tokens": False}, (Pooling.MEAN,)),
        ({}, (Pooling.MEAN,)),
        ({"pooling_mode": "lasttoken"}, (Pooling.LAST,)),
        ({"pooling_mode": "weightedmean"}, (Pooling.WEIGHTED_MEAN,)),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, (Pooling.MEAN_SQRT,)),
        ({"pooling_mode": ["mean", "cls"]}, (Pooling.MEAN, Pooling.CLS)),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, (Pooling.CLS,)),
    ],
)
@pytest.mark.parametrize("prefix", [OLD, None])
def test_every_layout_of_pooling_is_read(tmp_path, config, expected, prefix):
    found = spec_of(write_modules(tmp_path / "source", ("Pooling", config), prefix=prefix))
    assert (found.pooling, found.dimension) == (expected, E * len(expected))
    assert (found.normalize, found.include_prompt) == (False, True)


def test_a_model_without_modules_is_pooled_by_the_mean(tmp_path):
    write_json(tmp_path / "source" / "config.json", {"model_type": "bert"})
    found = spec_of(tmp_path / "source")
    assert (found.pooling, found.dimension, found.normalize) == ((Pooling.MEAN,), E, False)
    config = {"model_type": "gpt2", "architectures": ["GPT2ForCausalLM"]}
    write_json(tmp_path / "source" / "config.json", config)
    assert spec_of(tmp_path / "source").pooling == (Pooling.LAST,)


def test_a_graph_that_pools_itself_is_not_pooled_again(tmp_path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), "Normalize")
    found = spec_of(source, graph("sentence_embedding", width=7))
    assert (found.pooling, found.dimension, found.normalize) == ((Pooling.NONE,), 7, True)


def test_another_pooling_may_be_asked_for_and_then_no_file_contradicts_it(tmp_path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), "Normalize")
    assert spec_of(source, pooling="cls").pooling == (Pooling.CLS,)
    assert not any((tmp_path / "out").iterdir())
    refused(source, UnsupportedError, "for this graph only cls, mean", pooling="none")
    refused(source, UnsupportedError, "pooling is 'first'", pooling="first")


def test_the_width_is_the_graphs_or_else_the_configurations(tmp_path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN))
    assert spec_of(source, graph("token_embeddings", width="hidden")).dimension == E
    write_json(source / "config.json", {"model_type": "bert"})
    refused(source, StageError, "state hidden_size", given=graph(width="hidden"))
    refused(source, StageError, "the graph gives 31", given=graph(width=31))
    refused(source, UnsupportedError, "the graph gives logits", given=graph("logits"))


def test_an_exported_embedder_answers_and_records_its_pooling(tmp_path):
    source = tiny.write_bert(tmp_path / "source", architectures=["BertModel"])
    bundle = export(
        open_checkpoint(str(source)),
        tmp_path / "bundle",
        task="feature-extraction",
        pooling="cls",
        verify=False,
    )
    assert bundle.manifest.embedding.pooling == (Pooling.CLS,)
    assert bundle.manifest.history[0].options["pooling"] == "cls"
    model = lmonnx.load(bundle.path, threads=1)
    first = [tokens[0] for tokens in model.token_embeddings(["a film", "not good at all"])]
    assert np.abs(model(["a film", "not good at all"]) - first).max() < 1e-5


def test_an_adopted_graph_answers_as_the_one_it_was(tmp_path):
    bundle = export(open_checkpoint(str(FROZEN)), tmp_path / "bundle", verify=False)
    assert bundle.manifest.embedding == lmonnx.Bundle.open(FROZEN).manifest.embedding
    assert np.array_equal(lmonnx.load(bundle.path)("a film"), lmonnx.load(FROZEN)("a film"))


def test_a_graph_that_pools_itself_is_adopted_without_the_layers_it_has_run(tmp_path):
    source = Path(shutil.copytree(FROZEN, tmp_path / "source"))
    model = onnx.load(source / "onnx" / "model.onnx")
    mean = helper.make_node(
        "ReduceMean", ["last_hidden_state"], ["sentence_embedding"], axes=[1], keepdims=0
    )
    model.graph.node.append(mean)
    del model.graph.output[:]
    output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["b", 16])
    model.graph.output.append(output)
    onnx.save(model, source / "onnx" / "model.onnx")
    bundle = export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    spec = bundle.manifest.embedding
    assert (spec.pooling, spec.dense, spec.dimension) == ((Pooling.NONE,), (), 16)
    embed = lmonnx.load(bundle.path)
    expected = lmonnx.load(FROZEN).token_embeddings("a film")[0].mean(axis=0)
    assert np.abs(embed("a film", normalize=False) - expected).max() < 1e-5
    with pytest.raises(InputError, match="no vectors of tokens"):
        embed.token_embeddings("a film")


def test_pooling_is_for_embedders_alone(bert_checkpoint, tmp_path):
    with pytest.raises(UnsupportedError, match="pooling is for feature-extraction"):
        export(open_checkpoint(str(bert_checkpoint)), tmp_path / "bundle", pooling="cls")
