"""sentence-transformers' files → the manifest's embedding, in every layout they have had."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file

import lmonnx
from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Dense, GraphSpec, Pooling, Similarity, TensorSpec
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.embedding import export_embedding
from lmonnx.errors import InputError, LmonnxError, StageError, UnsupportedError
from tests import tiny, torch_files

pytestmark = pytest.mark.compiler

FROZEN = Path(__file__).parents[3] / "golden" / "tiny-embedder"
E, OUT = 32, 5
OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
DENSE = {
    "in_features": E,
    "out_features": OUT,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}
MEAN = {"word_embedding_dimension": E, "pooling_mode_mean_tokens": True}


def graph(name: str = "last_hidden_state", *, width: int | str = E) -> GraphSpec:
    axes = ("batch_size", "sequence_length", width)
    shape = axes if name != "sentence_embedding" else (axes[0], width)
    return GraphSpec("onnx/model.onnx", 17, (), (TensorSpec(name, "float32", shape),), {})


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_modules(folder: Path, *kinds: str | tuple[str, dict], prefix: str | None = OLD) -> Path:
    """Write modules.json, and each module's folder with its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"model_type": "bert", "hidden_size": E})
    listed = []
    for index, entry in enumerate(("Transformer", *kinds)):
        kind, config = entry if isinstance(entry, tuple) else (entry, {})
        path = f"{index}_{kind}" if index else ""
        kind_path = f"{prefix}{kind}" if prefix is not None else NEW[kind]
        listed.append({"idx": index, "name": str(index), "path": path, "type": kind_path})
        if index:
            write_json(folder / path / "config.json", config)
    write_json(folder / "modules.json", listed)
    return folder


def spec_of(folder: Path, given: GraphSpec | None = None, **options):
    out = folder.parent / "out"
    out.mkdir(exist_ok=True)
    return export_embedding(open_checkpoint(str(folder)), Draft(out), given or graph(), **options)


def refused(folder: Path, error: type[LmonnxError], said: str, **options) -> None:
    with pytest.raises(error, match=said) as caught:
        spec_of(folder, **options)
    assert "\n" not in str(caught.value)


def write_dense(folder: Path, *, bias: bool = True, form: str = "safetensors", seed: int = 0):
    """Write the weights of a layer; return (inputs + 1, outputs)."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(OUT, E)).astype(np.float32)
    arrays = {"linear.weight": weight}
    if bias:
        arrays["linear.bias"] = random.normal(size=OUT).astype(np.float32)
    if form == "safetensors":
        save_file(arrays, folder / "model.safetensors")
    else:
        torch_files.write_zip(folder / "pytorch_model.bin", arrays)
    return np.concatenate([weight.T, arrays.get("linear.bias", np.zeros(OUT))[None]])


# Pooling -----------------------------------------------------------------------------------------


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


# Layers ------------------------------------------------------------------------------------------


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


# Settings ----------------------------------------------------------------------------------------


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


# Wrong and hostile files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{", StageError, "is not JSON"),
        ("[" * 100_000, StageError, "is not JSON"),
        ("{}", StageError, "is not a list of modules"),
        ("[]", StageError, "is not a list of modules"),
        ("[3]", StageError, "has no type or no path"),
        ('[{"type": 3, "path": ""}]', StageError, "has no type or no path"),
        ('[{"type": "custom_st.Transformer", "path": ""}]', UnsupportedError, "is not run"),
        ('[{"type": "os.system", "path": ""}]', UnsupportedError, "is not run"),
    ],
)
def test_a_wrong_modules_file_is_an_error_of_one_line(tmp_path, text, error, said):
    source = write_modules(tmp_path / "source")
    (source / "modules.json").write_text(text)
    refused(source, error, said)


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../x", "C:\\x", "a//b", ".", "a\nb"])
def test_a_folder_outside_the_checkpoint_is_refused(tmp_path, path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN))
    modules = json.loads((source / "modules.json").read_text())
    modules[1]["path"] = path
    write_json(source / "modules.json", modules)
    write_json(tmp_path / "x" / "config.json", MEAN)
    refused(source, StageError, "outside the checkpoint")


def test_an_encoder_in_a_folder_of_its_own_is_refused(tmp_path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN))
    modules = json.loads((source / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(source / "modules.json", modules)
    refused(source, UnsupportedError, "move its files beside modules.json")


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("1_Pooling/config.json", None, StageError, "has no 1_Pooling/config.json"),
        ("1_Pooling/config.json", [], StageError, "not an object"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": "yes"}, StageError, "no boolean"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, UnsupportedError, "'median' is none"),
        ("1_Pooling/config.json", {"pooling_mode": []}, UnsupportedError, r"\[\] is none of cls"),
        ("1_Pooling/config.json", {"embedding_dimension": 31}, StageError, "for vectors of 31"),
        ("2_Dense/config.json", None, StageError, "has no 2_Dense/config.json"),
        ("2_Dense/model.safetensors", None, StageError, "2_Dense has none of"),
        ("2_Dense/model.safetensors", [], StageError, "safetensors"),
    ],
)
def test_a_wrong_module_file_is_an_error_of_one_line(tmp_path, name, value, error, said):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), ("Dense", DENSE))
    write_dense(source / "2_Dense")
    if value is None:
        (source / name).unlink()
    else:
        write_json(source / name, value)
    refused(source, error, said)


# The whole export --------------------------------------------------------------------------------


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
