"""A bundle in sentence-transformers, and its folders here: the same vectors and scores."""

from pathlib import Path

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from tests import tiny

pytestmark = pytest.mark.interop
st = pytest.importorskip("sentence_transformers")
models = pytest.importorskip("sentence_transformers.models")

TEXTS = ["the film is good", "", "bad", "a good film that is not bad at all " * 3, "🙂 é 中文"]
TOLERANCE = 1e-5
# Name → pooling modes, sizes of dense layers, whether vectors are normalized.
MODELS = {
    "mean": ("mean", (), True),
    "cls": ("cls", (), False),
    "max": ("max", (), True),
    "mean, dense": ("mean", (8,), True),
    "weighted mean": ("weightedmean", (), False),
    "last": ("lasttoken", (24, 8), False),
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory) -> Path:
    """Give a folder that sentence-transformers wrote."""
    mode, sizes, normalize = MODELS[request.param]
    folder = tmp_path_factory.mktemp("st")
    base = tiny.write_bert(folder / "base", architectures=["BertModel"])
    modules = [models.Transformer(str(base), max_seq_length=32)]
    wide = modules[0].get_word_embedding_dimension()
    modules.append(models.Pooling(wide, pooling_mode=mode))
    for size in sizes:
        modules.append(models.Dense(wide, size))
        wide = size
    if normalize:
        modules.append(models.Normalize())
    model = st.SentenceTransformer(modules=modules, device="cpu", prompts={"query": "film: "})
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved"


@pytest.fixture(scope="module")
def expected(saved):
    return st.SentenceTransformer(str(saved), device="cpu").encode(TEXTS)


@pytest.fixture(scope="module")
def bundle(saved, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "bundle"
    return export(open_checkpoint(str(saved)), target, verify=False).path


def test_the_bundle_gives_sentence_transformers_vectors(bundle, expected):
    model = lmonnx.load(bundle)
    np.testing.assert_allclose(model(TEXTS), expected, atol=TOLERANCE)


def test_a_prompt_is_put_before_the_text_as_there(saved, bundle):
    theirs = st.SentenceTransformer(str(saved), device="cpu").encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(
        lmonnx.load(bundle)(TEXTS, prompt_name="query"), theirs, atol=TOLERANCE
    )


def test_a_cut_vector_is_cut_as_there(saved, bundle):
    theirs = st.SentenceTransformer(str(saved), device="cpu", truncate_dim=6).encode(TEXTS)
    np.testing.assert_allclose(lmonnx.load(bundle)(TEXTS, dimensions=6), theirs, atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_packed_bits_are_theirs(bundle, expected, precision):
    from sentence_transformers.quantization import quantize_embeddings

    theirs = quantize_embeddings(expected, precision)
    found = lmonnx.load(bundle)(TEXTS, precision=precision)
    assert found.dtype == theirs.dtype
    assert (found == theirs).mean() > 0.9  # a value of 0 ± 1e-6 may fall on either side


def test_sentence_transformers_loads_the_bundle(bundle, expected):
    model = st.SentenceTransformer(str(bundle), backend="onnx", device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=TOLERANCE)


def test_its_own_onnx_folder_is_adopted(saved, expected, tmp_path):
    model = st.SentenceTransformer(
        str(saved), backend="onnx", device="cpu", model_kwargs={"export": True}
    )
    model.save_pretrained(str(tmp_path / "onnx"))
    adopted = export(
        open_checkpoint(str(tmp_path / "onnx")), tmp_path / "b", engine=Engine.ADOPT, verify=False
    )
    np.testing.assert_allclose(lmonnx.load(adopted.path)(TEXTS), expected, atol=TOLERANCE)


def test_a_reranker_scores_and_orders_as_a_cross_encoder(tmp_path):
    source = tiny.write_bert(tmp_path / "source", num_labels=1, id2label={"0": "LABEL_0"})
    made = export(
        open_checkpoint(str(source)), tmp_path / "b", task="text-ranking", verify=False
    ).path
    documents = ["good film", "bad", "", "the film is not good " * 20]
    expected = {
        rank["corpus_id"]: rank["score"]
        for rank in st.CrossEncoder(str(source), device="cpu").rank("film", documents)
    }
    found = {x.index: x.score for x in lmonnx.load(made)("film", documents)}
    assert found == pytest.approx(expected, abs=TOLERANCE)
    there = st.CrossEncoder(str(made), backend="onnx", device="cpu").rank("film", documents)
    assert {x["corpus_id"]: x["score"] for x in there} == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("activation", ["Identity", "Sigmoid"])
def test_a_cross_encoder_that_it_saved_is_a_reranker_with_its_activation(tmp_path, activation):
    import torch

    source = tiny.write_bert(tmp_path / "source", num_labels=1, id2label={"0": "LABEL_0"})
    theirs = st.CrossEncoder(
        str(source), device="cpu", activation_fn=getattr(torch.nn, activation)()
    )
    theirs.save_pretrained(str(tmp_path / "saved"))
    made = export(open_checkpoint(str(tmp_path / "saved")), tmp_path / "b", verify=False)
    pairs = [("film", "good film"), ("film", "bad")]
    found = {x.index: x.score for x in lmonnx.load(made.path)("film", [d for _, d in pairs])}
    expected = dict(enumerate(theirs.predict(pairs).tolist()))
    assert found == pytest.approx(expected, abs=TOLERANCE)
