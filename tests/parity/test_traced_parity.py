"""Graphs that optimum traces against live transformers and against the native ones."""

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.export import Engine
from lmonnx.runtime.tokenizer import Long
from tests import tiny
from tests.parity.test_native_parity import TEXTS, TOLERANCE, bundle_of, reference

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(2)
    return torch


def test_the_traced_graph_answers_as_the_native_one(torch, tmp_path):
    source = tiny.write_bert(tmp_path / "source")
    native = lmonnx.load(bundle_of(source, tmp_path / "native").path)
    traced = lmonnx.load(bundle_of(source, tmp_path / "traced", engine=Engine.OPTIMUM).path)
    expected = native.logits(TEXTS, long=Long.TRUNCATE)
    found = traced.logits(TEXTS, long=Long.TRUNCATE)
    assert traced.bundle.manifest.history[0].options["engine"] == "optimum"
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE


def test_an_architecture_without_a_family_is_traced(torch, tmp_path):
    import transformers

    source = tiny.write_bert(tmp_path / "text")
    config = transformers.SqueezeBertConfig(
        vocab_size=len(tiny.WORDPIECES), embedding_size=32, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.SqueezeBertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    saved = tmp_path / "squeezebert"
    model.save_pretrained(saved)
    transformers.SqueezeBertTokenizerFast.from_pretrained(source).save_pretrained(saved)
    bundle = bundle_of(saved, tmp_path / "bundle")
    assert bundle.manifest.history[0].options["engine"] == "optimum"
    found = lmonnx.load(bundle.path).logits(TEXTS, long=Long.TRUNCATE)
    expected = reference(torch, saved, TEXTS)
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE
