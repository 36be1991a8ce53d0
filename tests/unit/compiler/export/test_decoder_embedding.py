"""Embeddings from a decoder: one graph of whole texts, in which no text sees another or padding."""

import numpy as np
import onnxruntime as ort
import pytest

import lmonnx
from lmonnx.bundle.manifest import Pooling, Side, Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.quantize import quantize
from lmonnx.errors import InputError, StageError, UnsupportedError
from tests.cached import CachedGraph
from tests.tiny_decoders import CONTEXT, write_gpt2, write_llama
from tests.tiny_text import write_json

pytestmark = pytest.mark.compiler

TASK = "feature-extraction"
WRITERS = {"llama": write_llama, "gpt2": write_gpt2}
TEXTS = ["the film is good", "", "a", "good " * 40, "x y z", "the film is not bad at all"]


def embedder(folder, family="llama", **changes):
    source = WRITERS[family](folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "bundle", task=TASK, verify=False)


@pytest.fixture(scope="module", params=WRITERS)
def bundle(request, tmp_path_factory):
    return embedder(tmp_path_factory.mktemp("embedder"), request.param)


def test_the_graph_is_that_of_an_encoder(bundle):
    graph = bundle.manifest.graphs["model"]
    assert [each.name for each in graph.inputs] == ["input_ids", "attention_mask"]
    assert [each.name for each in graph.outputs] == ["last_hidden_state"]
    assert graph.opset == 17 and graph.operators["GroupQueryAttention"] == 2
    assert bundle.manifest.task is Task.FEATURE_EXTRACTION
    assert bundle.manifest.generation is None
    assert bundle.manifest.text.source.padding_side is Side.RIGHT


def test_a_texts_vector_is_its_last_tokens(bundle):
    assert bundle.manifest.embedding.pooling == (Pooling.LAST,)
    model = lmonnx.load(bundle.path)
    last = [tokens[-1] for tokens in model.token_embeddings(TEXTS)]
    np.testing.assert_array_equal(model(TEXTS), last)


def test_a_vector_does_not_depend_on_the_company(bundle):
    model = lmonnx.load(bundle.path, max_tokens=4096)
    np.testing.assert_allclose(model(TEXTS), [model(text) for text in TEXTS], atol=1e-5)


def test_padding_may_be_on_either_side_and_of_any_id(bundle):
    session = ort.InferenceSession(
        bundle.file("onnx/model.onnx"), providers=["CPUExecutionProvider"]
    )
    ids = np.arange(9, 33).reshape(3, 8)
    mask = np.ones_like(ids)
    mask[0, 5:] = mask[1, :3] = 0
    given = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    for row, kept in enumerate(mask.astype(bool)):
        alone = {"input_ids": ids[row][None, kept], "attention_mask": mask[row][None, kept]}
        np.testing.assert_allclose(given[row][kept], session.run(None, alone)[0][0], atol=1e-5)


def test_a_batch_of_nothing_but_padding_runs(bundle):
    model = lmonnx.load(bundle.path)
    none = {"input_ids": np.zeros((2, 1), np.int64), "attention_mask": np.zeros((2, 1), np.int64)}
    assert np.isfinite(model.session.run(none)["last_hidden_state"]).all()


def test_the_logits_of_its_vectors_are_those_of_the_graph_for_generation(tmp_path):
    source = open_checkpoint(str(write_llama(tmp_path / "source")))
    embeds = lmonnx.load(export(source, tmp_path / "e", task=TASK, verify=False).path)
    generates = export(source, tmp_path / "g", verify=False)
    (states,) = embeds.token_embeddings(["the film is good"])
    ids = embeds.tokenizer.encode(["the film is good"])[0].ids
    logits = states @ source.weights().read("model.embed_tokens.weight").T  # tied
    wanted = CachedGraph(generates)([ids], keep=len(ids))[0]
    assert np.abs(logits - wanted).max() < 1e-5 * np.ptp(wanted)


def test_a_checkpoint_without_head_and_prefix_is_the_same(tmp_path):
    def saved_alone(arrays):
        for name in list(arrays):
            arrays[name.removeprefix("model.")] = arrays.pop(name)

    whole = lmonnx.load(embedder(tmp_path / "whole").path)
    base = WRITERS["llama"](tmp_path / "base", edit=saved_alone, architectures=["LlamaModel"])
    alone = lmonnx.load(export(open_checkpoint(str(base)), tmp_path / "out", verify=False).path)
    assert alone.bundle.manifest.task is Task.FEATURE_EXTRACTION
    np.testing.assert_array_equal(alone(TEXTS), whole(TEXTS))


def write_modules(folder, mode="lasttoken"):
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ],
    )
    (folder / "1_Pooling").mkdir()
    flags = {"word_embedding_dimension": 64, f"pooling_mode_{mode}": True, "include_prompt": True}
    write_json(folder / "1_Pooling" / "config.json", flags)
    prompts = {"query": "the film: ", "document": ""}
    settings = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", settings)


def test_a_sentence_transformers_folder_is_read_as_an_encoders(tmp_path):
    source = write_llama(
        tmp_path / "source", settings={"padding_side": "left", "pad_token": "<pad>"}
    )
    write_modules(source)
    bundle = export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    spec, model = bundle.manifest.embedding, lmonnx.load(bundle.path)
    assert spec.pooling == (Pooling.LAST,) and spec.normalize
    assert spec.prompts == {"query": "the film: ", "document": ""}
    np.testing.assert_allclose(np.linalg.norm(model(TEXTS), axis=1), 1, rtol=1e-6)
    asked = model(["good"], prompt_name="query")
    np.testing.assert_array_equal(asked, model(["the film: good"]))


def test_long_text_is_cut_windowed_or_refused(bundle):
    model, long = lmonnx.load(bundle.path), "good " * CONTEXT
    assert len(model.token_embeddings([long])[0]) == CONTEXT
    assert not np.array_equal(model(long, long="window"), model(long))
    with pytest.raises(InputError, match=f"the model takes {CONTEXT}"):
        model(long, long="error")


@pytest.mark.parametrize("mode", ["mean", "cls", "weighted-mean"])
def test_another_pooling_can_be_asked_for(tmp_path, mode):
    source = open_checkpoint(str(write_llama(tmp_path / "source")))
    bundle = export(source, tmp_path / "bundle", task=TASK, pooling=mode, verify=False)
    assert bundle.manifest.embedding.pooling == (Pooling(mode),)
    assert np.isfinite(lmonnx.load(bundle.path)(TEXTS)).all()


def test_it_is_optimized_and_quantized_as_an_encoder(bundle, tmp_path):
    small = quantize(optimize(bundle, tmp_path / "fused"), tmp_path / "int8", max_drop=0.05)
    operators = small.manifest.graphs["model"].operators
    assert operators["MatMulIntegerToFloat"] == 8 and "MatMul" not in operators
    assert small.bytes < 0.5 * bundle.bytes
    model = lmonnx.load(small.path)
    np.testing.assert_allclose(model(TEXTS), [model(text) for text in TEXTS], atol=0.02)


def test_what_no_graph_reads_is_refused(tmp_path):
    with pytest.raises(UnsupportedError, match="the field 'is_causal'"):
        embedder(tmp_path / "one", is_causal=False)
    with pytest.raises(StageError, match="embed_tokens"):
        embedder(tmp_path / "two", edit=lambda arrays: arrays.pop("model.embed_tokens.weight"))
