"""What follows the pooling: layers, their order, and the settings of sentence-transformers."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmonnx.bundle.manifest import Dense, Similarity
from lmonnx.errors import StageError, UnsupportedError
from tests.embedder_files import (
    DENSE,
    MEAN,
    OUT,
    refused,
    spec_of,
    write_dense,
    write_json,
    write_modules,
)

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_layer_is_one_array_whose_last_row_is_the_bias(tmp_path, form, bias):
    config = DENSE | {"bias": bias}
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), ("Dense", config), "Normalize")
    expected = write_dense(source / "2_Dense", bias=bias, form=form)
    found = spec_of(source)
    assert (found.dense, found.dimension) == ((Dense("embedding/dense_0.npy", "tanh"),), OUT)
    stored = np.load(tmp_path / "out" / "embedding" / "dense_0.npy", allow_pickle=False)
    assert stored.dtype == np.float32
    assert np.array_equal(stored, expected)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("torch.nn.modules.activation.Tanh", "tanh"),
        ("torch.nn.modules.linear.Identity", "identity"),
        ("torch.nn.modules.activation.ReLU", "relu"),
        ("torch.nn.modules.activation.GELU", "gelu"),
        ("torch.nn.modules.activation.Sigmoid", "sigmoid"),
        (None, "tanh"),
    ],
)
def test_an_activation_is_known_by_its_class(tmp_path, path, expected):
    config = {k: v for k, v in (DENSE | {"activation_function": path}).items() if v is not None}
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), ("Dense", config))
    write_dense(source / "2_Dense")
    assert spec_of(source).dense[0].activation == expected


@pytest.mark.parametrize("path", ["torch.nn.modules.activation.Mish", "mine.Tanh", 3])
def test_another_activation_is_refused(tmp_path, path):
    config = DENSE | {"activation_function": path}
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), ("Dense", config))
    write_dense(source / "2_Dense")
    refused(source, UnsupportedError, "is none of torch's Tanh, Identity")


def test_layers_follow_each_other_and_dropout_is_nothing(tmp_path):
    source = write_modules(
        tmp_path / "source",
        ("Pooling", MEAN),
        ("Dense", DENSE),
        ("Dropout", {"dropout": 0.1}),
        "Normalize",
    )
    write_dense(source / "2_Dense")
    found = spec_of(source)
    assert (len(found.dense), found.normalize) == (1, True)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["LayerNorm"], "the module LayerNorm is not built here"),
        (["Pooling", "WeightedLayerPooling"], "the module WeightedLayerPooling is not"),
        (["Router"], "the module Router is not built here"),
        (["SpladePooling"], "the module SpladePooling is not built here"),
        (["Pooling", "Normalize", "Dense"], "Normalize → Dense is not built here"),
        (["Normalize", "Pooling"], "Normalize → Pooling is not built here"),
        (["Pooling", "Pooling"], "Pooling → Pooling is not built here"),
        ([], "lists no Pooling; name one of"),
    ],
)
def test_other_modules_are_refused_by_name(tmp_path, kinds, said):
    refused(write_modules(tmp_path / "source", *kinds), UnsupportedError, said)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"use_residual": True}, UnsupportedError, "use_residual is not built here"),
        ({"module_input_name": "token_embeddings"}, UnsupportedError, "is 'token_embeddings'"),
        ({"bias": True, "no": "bias"}, StageError, "no tensor linear.bias"),
    ],
)
def test_a_layer_that_does_something_else_is_refused(tmp_path, change, error, said):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), ("Dense", DENSE | change))
    write_dense(source / "2_Dense", bias="no" not in change)
    refused(source, error, said)


def test_a_layer_of_another_width_is_refused(tmp_path):
    both = MEAN | {"pooling_mode_cls_token": True}
    source = write_modules(tmp_path / "source", ("Pooling", both), ("Dense", DENSE))
    write_dense(source / "2_Dense")
    refused(source, StageError, "takes vectors of 32, is given 64")
    save_file(
        {"linear.weight": np.zeros((2, 2, 2), np.float32)}, source / "2_Dense/model.safetensors"
    )
    refused(source, StageError, "no tensor linear.bias|are no layer")


def test_prompts_similarity_and_dimensions_come_from_the_settings(tmp_path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN | {"include_prompt": False}))
    settings = {
        "prompts": {"query": "query: ", "document": None},
        "default_prompt_name": "query",
        "similarity_fn_name": "euclidean",
        "truncate_dim": 8,
    }
    write_json(source / "config_sentence_transformers.json", settings)
    write_json(source / "sentence_bert_config.json", {"max_seq_length": 9, "do_lower_case": True})
    found = spec_of(source)
    assert found.prompts == {"query": "query: ", "document": ""}
    assert (found.default_prompt, found.include_prompt, found.lower_case) == ("query", False, True)
    assert (found.similarity, found.dimension) == (Similarity.EUCLIDEAN, 8)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"prompts": ["query: "]}, StageError, "prompts are no texts by name"),
        ({"prompts": {"query": 3}}, StageError, "prompts are no texts by name"),
        ({"default_prompt_name": "query"}, StageError, "'query', prompts are none"),
        ({"similarity_fn_name": "maxsim"}, UnsupportedError, "none of cosine, dot"),
        ({"truncate_dim": 0}, StageError, "must be a positive number"),
        ({"truncate_dim": "8"}, StageError, "must be a positive number"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, settings, error, said):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN))
    write_json(source / "config_sentence_transformers.json", settings)
    refused(source, error, said)


def test_the_files_go_along(tmp_path):
    source = write_modules(
        tmp_path / "source", ("Pooling", MEAN), ("Dense", DENSE), "Normalize", "Dropout"
    )
    write_dense(source / "2_Dense")
    write_dense(source / "2_Dense", form="bin")
    write_json(source / "config_sentence_transformers.json", {})
    write_json(source / "sentence_roberta_config.json", {"max_seq_length": 9})
    (source / "2_Dense" / "notes.txt").write_text("not read")
    spec_of(source)
    out = tmp_path / "out"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_Normalize/config.json",
        "4_Dropout/config.json",
        "config_sentence_transformers.json",
        "embedding/dense_0.npy",
        "modules.json",
        "sentence_roberta_config.json",
    }
