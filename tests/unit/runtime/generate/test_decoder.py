"""The graph over the cache: however the tokens are divided into calls, the logits are the same."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, UnsupportedError
from lmonnx.runtime import tuned
from lmonnx.runtime.generate.capacity import Capacity, make_cache
from lmonnx.runtime.generate.decoder import Decoder, check_cache, open_sessions
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.pipelines.text_generation import TextGenerator
from lmonnx.runtime.session import SessionConfig

TOKENS = [1, *range(70, 90)]
CLOSE = {"rtol": 0, "atol": 1e-4}


def decoder(path, slots=4, roles=("model",), lone_rows=3):
    bundle = Bundle.open(path)
    generation = check_cache(bundle)
    session = open_sessions(bundle, SessionConfig(threads=1))["model"]
    cache = make_cache(generation, Capacity(slots=slots))
    sessions, size = dict.fromkeys(roles, session), generation.vocabulary
    return Decoder(sessions, cache, vocabulary=size, lone_rows=lone_rows)


@pytest.fixture(scope="module")
def whole(tiny_path):
    """Give the logits of all of TOKENS, from one call."""
    return decoder(tiny_path).extend(0, TOKENS, 0, keep=len(TOKENS), company=None)


@settings(max_examples=30)
@given(st.lists(st.integers(1, len(TOKENS) - 1), unique=True).map(sorted), st.integers(0, 3))
def test_a_prompt_in_pieces_gives_the_logits_of_the_whole(tiny_path, whole, cuts, slot):
    model = decoder(tiny_path)
    for start, stop in zip([0, *cuts], [*cuts, len(TOKENS)], strict=True):
        logits = model.extend(slot, TOKENS[start:stop], start, keep=stop - start, company=None)
        np.testing.assert_allclose(logits, whole[start:stop], **CLOSE)


def test_rows_of_different_lengths_run_together(tiny_path, whole):
    model, lengths = decoder(tiny_path), [0, 3, 11, 20]
    for slot, length in enumerate(lengths):
        if length:
            model.extend(slot, TOKENS[:length], 0, keep=0, company=None)
    logits = model.step([TOKENS[length] for length in lengths], lengths)
    np.testing.assert_allclose(logits, whole[lengths], **CLOSE)


def test_logits_are_given_for_as_many_tokens_as_are_asked(tiny_path, whole):
    for keep in (0, 1, 5):
        logits = decoder(tiny_path).extend(0, TOKENS, 0, keep=keep, company=None)
        np.testing.assert_allclose(logits, whole[len(TOKENS) - keep :], **CLOSE)


def test_few_rows_run_in_the_lone_graph_and_many_in_the_other(tiny_path):
    both, one = decoder(tiny_path, roles=("model", "lone")), decoder(tiny_path)
    assert [both._role(rows) for rows in (1, 3, 4, 8)] == ["lone", "lone", "model", "model"]
    assert [one._role(rows) for rows in (1, 8)] == ["model", "model"]
    both.extend(0, TOKENS, 0, keep=0, company=None)
    both.extend(0, TOKENS, 0, keep=0, company=1)
    assert [role for role, _ in both._runs] == ["model", "lone"]


def test_a_draft_is_verified_by_the_graph_that_decodes_one_row(tiny_path):
    for lone_rows, role in ((0, "model"), (1, "lone"), (8, "lone")):
        model = decoder(tiny_path, roles=("model", "lone"), lone_rows=lone_rows)
        model.extend(0, TOKENS, 0, keep=1, company=1)
        assert model._role(1) == role and [role for role, _ in model._runs] == [role]


def test_untuned_the_cpu_says_up_to_how_many_rows_the_lone_graph_is_taken(tiny_path, monkeypatch):
    for flags, rows in (("model name : xflags : sse avx2", 3), ("flags : avx512_vnni avx2", 4)):
        monkeypatch.setattr(tuned, "_cpu", lambda flags=flags: flags)
        assert decoder(tiny_path, lone_rows=None)._lone_rows == rows


def test_a_bundle_that_is_no_decoder_is_refused(tiny_path):
    bundle = Bundle.open(tiny_path)
    manifest = bundle.manifest
    graph = manifest.graphs["model"]
    cache = manifest.generation.cache
    wrong = {
        "nothing of generation": replace(manifest, generation=None),
        "has no size": replace(manifest, generation=replace(manifest.generation, context=0)),
        "inputs and outputs": replace(
            manifest, generation=replace(manifest.generation, cache=replace(cache, layers=3))
        ),
        "not \\(B, K, T, D\\)": replace(
            manifest, generation=replace(manifest.generation, cache=replace(cache, heads=2))
        ),
        "other logits": replace(manifest, generation=replace(manifest.generation, vocabulary=7)),
    }
    for message, other in wrong.items():
        with pytest.raises(BundleError, match=message):
            check_cache(replace(bundle, manifest=other))
    renamed = replace(bundle, manifest=replace(manifest, graphs={"other": graph}))
    with pytest.raises(BundleError, match="no graph called model"):
        open_sessions(renamed, SessionConfig())
    with pytest.raises(UnsupportedError, match="CUDAExecutionProvider"):
        open_sessions(bundle, SessionConfig(providers=("CUDAExecutionProvider",)))


def test_a_bundle_of_two_graphs_answers_as_one_of_one(tiny_path, solo):
    bundle = Bundle.open(tiny_path)
    graph = bundle.manifest.graphs["model"]
    both = replace(
        bundle, manifest=replace(bundle.manifest, graphs={"model": graph, "lone": graph})
    )
    params = SamplingParams(max_new_tokens=20)
    with TextGenerator(both, SessionConfig(threads=1)) as model:
        prompts = ["the dog", "a cat", "one", "two", "three"]
        assert [model(p, params) for p in prompts] == [solo(p, params) for p in prompts]
        assert model(prompts, params) == [solo(p, params)[0] for p in prompts]
        decoder = model._engine._decoder
        ran = {role for role, _ in decoder._runs}
        assert ran == {"model"} and set(decoder._steps) >= {1, 5}
