"""What parity compares of a decoder: the logits after a text's last token."""

import numpy as np
import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.errors import BundleError
from lmonnx.measure.decisions import Decision, agreed, answer_all, decision_of
from lmonnx.measure.next_logits import NextLogits
from lmonnx.measure.parity import Golden, measure_parity
from lmonnx.runtime.tokenizer import Tokenizer
from tests.cached import CachedGraph
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


def test_an_encoder_says_nothing_of_generation(tiny_bundle):
    with pytest.raises(BundleError, match="says nothing of generation"):
        NextLogits(Bundle.open(tiny_bundle))
