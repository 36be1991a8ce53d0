"""Graphs that optimum traces are fused as the native ones: counted, equal, and then quantized."""

import numpy as np
import pytest

import lmonnx
from lmonnx.bundle.manifest import Task
from lmonnx.compiler.export import Engine
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.optimize.attention import loose_scales
from lmonnx.compiler.quantize import quantize
from lmonnx.runtime.tokenizer import Long
from tests import tiny, tiny_more
from tests.parity.test_native_parity import TEXTS, TOLERANCE, bundle_of

pytestmark = pytest.mark.parity

WRITERS = {**tiny.WRITERS, **tiny_more.WRITERS}
# What classifiers' graphs are fused to, and how many layers are then int8. BERT's scores, and what
# is like them, are a scaled product a layer, of which most graphs have two; ALBERT's run four
# times two, DeBERTa's are three products each. GELUs have their bias where there is one.
LAYERS = {
    "bert": ({"BiasGelu": 2, "FusedGemm": 1, "FusedMatMul": 2}, 12),
    "roberta": ({"BiasGelu": 2, "FusedGemm": 1, "FusedMatMul": 2}, 12),
    "distilbert": ({"BiasGelu": 2, "FusedGemm": 1, "FusedMatMul": 2}, 12),
    "electra": ({"BiasGelu": 2, "FusedMatMul": 2, "Gelu": 1}, 13),
    "albert": ({"FastGelu": 8, "FusedGemm": 1, "FusedMatMul": 8}, 49),
    "mpnet": ({"BiasGelu": 2, "FusedGemm": 1, "FusedMatMul": 2}, 12),
    "deberta-v2": ({"BiasGelu": 2, "FusedMatMul": 6, "Gelu": 1}, 12),
    "modernbert": ({"FusedMatMul": 3, "Gelu": 4}, 13),
}


@pytest.fixture(autouse=True, scope="module")
def _threads():
    import torch

    torch.set_num_threads(2)


def traced(source, folder):
    bundle = bundle_of(source, folder, engine=Engine.OPTIMUM)
    assert bundle.manifest.history[0].options["engine"] == "optimum"
    return bundle


def fused(bundle, folder):
    """Optimize a bundle; return the new one, its counts, and how far its answers are."""
    made = optimize(bundle, folder)
    model = load_graph(made.file(made.manifest.graphs["model"].file))
    assert not loose_scales(model)
    step = made.manifest.history[-1]
    return made, step.metrics["fused"], step.parity[0].relative


@pytest.mark.parametrize("family", LAYERS)
def test_a_traced_classifier_is_fused_answers_as_before_and_is_quantized(family, tmp_path):
    wanted, layers = LAYERS[family]
    plain = traced(WRITERS[family](tmp_path / "source"), tmp_path / "traced")
    made, counts, _ = fused(plain, tmp_path / "opt")
    assert counts == wanted
    expected, found = (lmonnx.load(b.path).logits(TEXTS, long=Long.TRUNCATE) for b in (plain, made))
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE
    int8 = quantize(made, tmp_path / "int8", max_drop=0.5)  # random weights: close calls
    assert int8.manifest.history[-1].metrics["layers"] == layers
    assert int8.manifest.graphs["model"].operators["MatMulIntegerToFloat"] == layers


@pytest.mark.parametrize("task", [Task.FEATURE_EXTRACTION, Task.FILL_MASK])
@pytest.mark.parametrize("family", LAYERS)
def test_another_task_is_fused_alike(family, task, tmp_path):
    plain = traced(WRITERS[family](tmp_path / "source", task=str(task)), tmp_path / "traced")
    _, counts, distance = fused(plain, tmp_path / "opt")
    assert counts["FusedMatMul"] == LAYERS[family][0]["FusedMatMul"]
    assert distance < TOLERANCE


# Architectures that are not built here: own tables of distances, and attention beside convolutions.
CONFIGS = {
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "convbert": {"embedding_size": 32},
    "squeezebert": {"embedding_size": 32},
    "roformer": {"embedding_size": 32},
}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_an_architecture_without_a_family_is_fused(architecture, tmp_path):
    import torch
    import transformers

    source = tiny.write_bert(tmp_path / "text")
    config = transformers.AutoConfig.for_model(
        architecture, vocab_size=len(tiny.WORDPIECES), hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=64, max_position_embeddings=64,
        **CONFIGS[architecture],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    tokenizer = transformers.BertTokenizerFast.from_pretrained(source, model_max_length=64)
    tokenizer.save_pretrained(saved)
    plain = traced(saved, tmp_path / "traced")
    made, counts, _ = fused(plain, tmp_path / "opt")
    assert counts["FusedMatMul"] >= 2
    expected, found = (lmonnx.load(b.path).logits(TEXTS, long=Long.TRUNCATE) for b in (plain, made))
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE


@pytest.mark.shared
def test_a_trained_classifier_is_fused_as_the_native_graph(shared, tmp_path):
    source = shared / "models" / "minilm-l6-sst2"
    plain = traced(source, tmp_path / "traced")
    made, counts, distance = fused(plain, tmp_path / "opt")
    native = optimize(bundle_of(source, tmp_path / "native"), tmp_path / "native-opt")
    assert counts == native.manifest.history[-1].metrics["fused"]
    expected, found = (lmonnx.load(b.path).logits(TEXTS) for b in (native, made))
    assert distance < TOLERANCE
    assert np.abs(found - expected).max() / np.ptp(expected) < TOLERANCE
