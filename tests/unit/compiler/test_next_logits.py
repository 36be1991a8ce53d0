"""What parity compares of a decoder: the logits after a text's last token."""

import json

import numpy as np
import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.quantize import quantize
from lmonnx.errors import BundleError
from lmonnx.measure.decisions import Decision, agreed, answer_all, decision_of
from lmonnx.measure.next_logits import NextLogits, raw_models
from lmonnx.measure.parity import Golden, measure_parity, worst_parity
from lmonnx.runtime.tokenizer import Tokenizer
from tests.cached import CachedGraph
from tests.cli.command_line import run
from tests.tiny_decoders import CONTEXT, VOCABULARY, write_llama

pytestmark = pytest.mark.compiler

LLAMA = {"tokenizer_class": "LlamaTokenizer"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoder")
    source = write_llama(folder / "source", settings={**LLAMA, "add_bos_token": False})
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


def test_a_texts_raw_outputs_are_the_logits_after_its_last_token(bundle):
    texts = ["the film", "a good film is good"]
    tokenizer = Tokenizer(bundle.file("tokenizer.json"), bundle.manifest.text)
    wanted = [CachedGraph(bundle)([encoded.ids])[0] for encoded in tokenizer.encode(texts)]
    given = list(NextLogits(bundle).raw(texts))
    assert [raw.shape for raw in given] == [(1, VOCABULARY)] * 2
    assert all(np.abs(a - b).max() < 1e-5 for a, b in zip(given, wanted, strict=True))


def test_a_text_of_no_tokens_has_no_logits_and_the_others_have(bundle):
    shapes = [raw.shape for raw in NextLogits(bundle).raw(["", "a", ""])]
    assert shapes == [(0, 0), (1, VOCABULARY), (0, 0)]


def test_a_text_over_the_context_is_cut_to_it(bundle):
    long = "a" * (CONTEXT + 9)
    given, wanted = NextLogits(bundle).raw([long, long[:CONTEXT]])
    assert np.array_equal(given, wanted)


def test_a_decoder_is_held_to_a_golden_answer_by_its_likeliest_token(bundle):
    model, texts = NextLogits(bundle), ("a", "the film", "")
    parity = measure_parity(model, Golden("itself", texts, answer_all(model, texts)))
    assert parity.max_difference == 0 and parity.agreement == 1
    assert decision_of(bundle.manifest) is Decision.BEST
    assert agreed(bundle.manifest) == "same token"


def test_verify_holds_a_decoder_to_a_golden_file(bundle, tmp_path):
    texts = ["a", "the film", "a good film"]
    logits = [raw.tolist() for raw in NextLogits(bundle).raw(texts)]
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"source": "itself", "texts": texts, "logits": logits}))
    shown = run("verify", bundle.path, "--golden", golden).stdout
    assert "same token\t100.00%" in shown and "parity\theld" in shown
    logits[1][0][0] += 99
    golden.write_text(json.dumps({"source": "itself", "texts": texts, "logits": logits}))
    assert run("verify", bundle.path, "--golden", golden).exit_code == 3


@pytest.mark.parametrize(("options", "roles"), [({"bits": 8}, 1), ({"method": "both"}, 2)])
def test_every_graph_of_a_quantized_decoder_is_compared(bundle, tmp_path, options, roles):
    small = quantize(bundle, tmp_path / "small", calibrate=False, max_drop=1.0, **options)
    models, texts = raw_models(small), ("a", "the film", "good")
    assert [model.bundle for model in models] == [small] * roles
    golden = Golden("the input", texts, answer_all(NextLogits(bundle), texts))
    found = [measure_parity(model, golden) for model in models]
    worst = worst_parity(models, golden)
    assert worst in found and worst.clear_agreement == min(p.clear_agreement for p in found)


def test_an_encoder_is_compared_by_its_pipeline(tiny_bundle):
    (model,) = raw_models(Bundle.open(tiny_bundle))
    assert next(iter(model.raw(["a film"]))).shape == (1, 2)


def test_an_encoder_says_nothing_of_generation(tiny_bundle):
    with pytest.raises(BundleError, match="says nothing of generation"):
        NextLogits(Bundle.open(tiny_bundle))
