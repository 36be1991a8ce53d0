"""The embedder on the frozen bundle, against vectors that sentence-transformers gave."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmonnx
from lmonnx import Bundle, BundleError, Embedder, InputError
from lmonnx.bundle.manifest import Dense, Pooling, Side
from lmonnx.runtime.pipelines.feature_extraction import lower
from lmonnx.runtime.session import SessionConfig

GOLDEN = Path(__file__).parents[2] / "golden"
FROZEN = json.loads((GOLDEN / "tiny-embedder.json").read_text(encoding="utf-8"))
TEXTS = FROZEN["texts"]
TOLERANCE = 2e-6
SHORT, LONG = "a good film", "the film is not good " * 40


@pytest.fixture(scope="module")
def embed() -> Embedder:
    return lmonnx.load(GOLDEN / "tiny-embedder", threads=1)


def changed(embed: Embedder, **fields) -> Embedder:
    """Return the same bundle with another embedding in its manifest."""
    spec = replace(embed.bundle.manifest.embedding, **fields)
    manifest = replace(embed.bundle.manifest, embedding=spec)
    return Embedder(Bundle(embed.bundle.path, manifest), SessionConfig(threads=1))


def near(found, expected, tolerance: float = TOLERANCE) -> bool:
    return np.abs(np.asarray(found, np.float64) - np.asarray(expected)).max() < tolerance


# sentence-transformers' answers ------------------------------------------------------------------


def test_vectors_are_those_of_sentence_transformers(embed):
    found = embed(TEXTS)
    assert found.dtype == np.float32
    assert near(found, FROZEN["vectors"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("query", {"prompt_name": "query"}),
        ("query", {"prompt": "the film is: "}),
        ("cut", {"dimensions": 5}),
        ("cut and normalized", {"dimensions": 5, "normalize": True}),
    ],
)
def test_options_do_what_they_do_in_sentence_transformers(embed, name, options):
    assert near(embed(TEXTS[:8], **options), FROZEN[name])


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_packed_vectors_are_equal(embed, precision):
    found = embed(TEXTS[:8], precision=precision)
    assert found.tolist() == FROZEN["packed"][precision]
    assert found.dtype == ("uint8" if precision.startswith("u") else "int8")


def test_token_vectors_are_equal_and_special_tokens_are_among_them(embed):
    (found,) = embed.token_embeddings(TEXTS[-1:])
    assert near(found, FROZEN["tokens"][0])
    assert near(embed.token_embeddings(TEXTS[-1])[0], found)


def test_similarity_takes_texts_or_vectors(embed):
    vectors = embed(TEXTS[:8])
    assert near(embed.similarity(vectors[:4], vectors[4:]), FROZEN["similarity"])
    assert near(embed.similarity(TEXTS[:4], TEXTS[4:8]), FROZEN["similarity"])
    assert embed.similarity(TEXTS[0], vectors[1]).shape == (1, 1)


# Laws --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, len(TEXTS) - 1), max_size=12))
def test_neither_order_nor_company_changes_a_vector(embed, places):
    found = embed([TEXTS[place] for place in places])
    assert found.shape == (len(places), 12)
    expected = np.array(FROZEN["vectors"])[places]
    assert np.abs(found - expected).max(initial=0) < 1e-5


@pytest.mark.parametrize("mode", [m for m in Pooling if m is not Pooling.NONE])
def test_padding_changes_no_pooled_vector(embed, mode):
    pooled = changed(embed, pooling=(mode,), dense=(), dimension=16, normalize=False)
    assert near(pooled(TEXTS), [pooled(text) for text in TEXTS], 1e-5)


def test_a_stream_may_be_endless_and_keeps_the_order(embed):
    endless = embed.stream(itertools.cycle(TEXTS))
    found = list(itertools.islice(endless, 2 * len(TEXTS)))
    assert found[0].shape == (12,)
    assert near(found, FROZEN["vectors"] * 2)


def test_a_stream_packs_by_given_ranges(embed):
    vectors = embed(TEXTS)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    found = list(embed.stream(iter(TEXTS), precision="int8", ranges=ranges))
    assert np.array_equal(found, embed(TEXTS, precision="int8"))


# Shapes and options ------------------------------------------------------------------------------


def test_one_text_gives_one_vector_and_none_gives_none(embed):
    assert embed(TEXTS[1]).shape == (12,)
    assert near(embed(TEXTS[1]), FROZEN["vectors"][1])
    assert embed(iter(TEXTS)).shape == (len(TEXTS), 12)
    assert embed([]).shape == (0, 12)
    assert embed([], dimensions=4, precision="int8").shape == (0, 4)
    assert embed([], precision="ubinary").shape == (0, 2)


def test_raw_is_the_vector_without_the_prompt_or_the_cut(embed):
    default = changed(embed, default_prompt="query", dimension=5)
    assert near([row[0] for row in default.raw(TEXTS)], FROZEN["vectors"])
    assert near(default(TEXTS[:8]), np.array(FROZEN["query"])[:, :5])
    assert near(default(TEXTS[:8], prompt=""), FROZEN["cut"])


def test_normalize_false_leaves_the_models_own_norm_out(embed):
    plain = embed(TEXTS, normalize=False)
    norms = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(norms - 1).max() > 0.1
    assert near(plain / norms, FROZEN["vectors"])


def test_a_prompt_that_is_included_is_pooled(embed):
    included = changed(embed, include_prompt=True)
    texts = ["the film is: " + text for text in TEXTS[:8]]
    assert near(included(TEXTS[:8], prompt_name="query"), embed(texts))


def test_lowered_text_is_lowered_with_its_prompt(embed):
    lowered = changed(embed, lower_case=True, include_prompt=True)
    assert near(lowered("GOOD É", prompt="THE "), embed("the good é"))
    assert lower("ΟΔΟΣ İ A") == "οδοσ i̇ a"


def test_windows_are_weighted_by_their_tokens(embed):
    mean = changed(embed, pooling=(Pooling.MEAN,), dense=(), dimension=16, normalize=False)
    parts = mean.tokenizer.encode([LONG], "window")
    assert len(parts) > 3
    rows = [w.row for w in next(mean.windows([LONG], long="window", reduce=mean.reduce))]
    weights = [len(part.ids) for part in parts]
    assert near(mean(LONG, long="window"), np.average(rows, axis=0, weights=weights), 1e-5)
    assert near(embed(SHORT, long="window"), embed(SHORT))


def test_only_the_first_window_has_a_prompt_to_leave_out(embed):
    windowed = embed([LONG, SHORT], prompt_name="query", long="window")
    assert near(windowed[1], embed(SHORT, prompt_name="query"))
    assert not near(windowed[0], embed(LONG, prompt_name="query"), 1e-3)


@pytest.mark.parametrize("side", Side)
def test_a_prompt_of_one_token_is_left_out_of_the_window_that_begins_the_text(embed, side):
    mean = changed(embed, pooling=(Pooling.MEAN,), dense=(), dimension=16, normalize=False)
    text = mean.bundle.manifest.text
    text = replace(text, source=replace(text.source, truncation_side=side))
    cut = Embedder(Bundle(mean.bundle.path, replace(mean.bundle.manifest, text=text)))

    def states(outputs, batch):
        kept = batch.inputs["attention_mask"].astype(bool)
        return [row[of] for row, of in zip(outputs["last_hidden_state"], kept, strict=True)]

    rows = [w.row for w in next(cut.windows(["the " + LONG], long="window", reduce=states))]
    begins = 0 if side is Side.RIGHT else len(rows) - 1
    pooled = [row[2 * (at == begins) :].mean(axis=0) for at, row in enumerate(rows)]  # [CLS] the
    expected = np.average(pooled, axis=0, weights=[len(row) for row in rows])
    assert near(cut(LONG, prompt="the ", long="window"), expected, 1e-5)


def test_long_text_is_cut_by_default_and_may_be_an_error(embed):
    assert near(embed(LONG), embed(LONG + "bad"))
    with pytest.raises(InputError, match="the model takes 40"):
        embed(LONG, long="error")


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ("a", {"prompt_name": "z"}, "the model knows document, passage, query"),
        ("a", {"prompt_name": "query", "prompt": "b"}, "give one of them"),
        ("a", {"prompt": 3}, "int is no text"),
        ("a", {"dimensions": 0}, "must be from 1 to 12"),
        ("a", {"dimensions": 13}, "must be from 1 to 12"),
        ("a", {"dimensions": True}, "must be from 1 to 12"),
        ("a", {"precision": "int4"}, "one of float32, int8, uint8, binary, ubinary"),
        ("a", {"precision": "int8"}, "pass ranges"),
        ("a", {"precision": "int8", "ranges": [[1, 2]]}, r"numbers \(2, 12\)"),
        ("a", {"precision": "int8", "ranges": np.zeros((2, 11))}, r"numbers \(2, 12\)"),
        ("a", {"prompt_name": ["query"]}, "the model knows"),
        ("a", {"normalize": "yes"}, "must be True, False or None"),
        ("a", {"long": "max"}, "give window, truncate or error"),
        ("a", {"long": "cut"}, "must be one of"),
        (["a", 3], {}, "int is no text"),
        (["a", ("b", "c")], {}, "tuple is no text"),
        ([["a"]], {}, "list is no text"),
        (["a", "b\ud800"], {}, "text 1 is not valid Unicode at character 1"),
        (b"a", {}, "bytes is no text"),
        ({"a": 1}, {}, "dict is no text"),
        (3, {}, "int is no text"),
    ],
)
def test_what_is_wrong_is_an_input_error_of_one_line(embed, texts, options, said):
    with pytest.raises(InputError, match=said) as caught:
        embed(texts, **options)
    assert "\n" not in str(caught.value)


def test_a_stream_is_checked_when_it_is_asked_for(embed):
    for texts, options in (("ab", {}), (["a"], {"precision": "uint8"}), (["a"], {"dimensions": 0})):
        with pytest.raises(InputError):
            embed.stream(texts, **options)


def test_vectors_of_different_widths_are_not_compared(embed):
    with pytest.raises(InputError, match="cut both to the same"):
        embed.similarity(embed("a"), embed("a", dimensions=4))
    with pytest.raises(InputError, match=r"must be \(N, E\)"):
        embed.similarity(np.zeros((1, 2, 12)), embed("a"))


def test_load_refuses_the_highest_of_windows():
    with pytest.raises(InputError, match="give window, truncate or error"):
        lmonnx.load(GOLDEN / "tiny-embedder", long="max")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pooling": ()}, "to be pooled by nothing"),
        ({"pooling": (Pooling.NONE,)}, "to be pooled by none"),
        ({"pooling": (Pooling.CLS, Pooling.NONE)}, "to be pooled by cls, none"),
        ({"pooling": (Pooling.CLS,)}, "a dense layer takes vectors of 32, is given 16"),
        ({"dimension": 13}, "states 13 dimensions, the model gives 12"),
        ({"dense": (Dense("embedding/dense_0.npy", "mish"),)}, "'mish' is none of identity"),
        ({"dense": (Dense("tokenizer.json", "tanh"),)}, "is not an array"),
        ({"dense": (Dense("none.npy", "tanh"),)}, "is not an array"),
    ],
)
def test_a_manifest_that_does_not_fit_the_files_is_refused(embed, fields, said):
    with pytest.raises(BundleError, match=said) as caught:
        changed(embed, **fields)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_no_float32_matrix_is_refused(embed, tmp_path):
    folder = shutil.copytree(embed.bundle.path, tmp_path / "bundle")
    for array in (np.zeros((33, 12)), np.zeros(3, np.float32), np.array([{}])):
        np.save(folder / "embedding" / "dense_0.npy", array, allow_pickle=True)
        with pytest.raises(BundleError, match=r"dense_0\.npy is not a"):
            Embedder(Bundle(folder, embed.bundle.manifest), SessionConfig(threads=1))


def test_a_bundle_of_another_task_is_no_embedder(tiny_bundle):
    with pytest.raises(BundleError, match="export it as feature-extraction"):
        Embedder(Bundle.open(tiny_bundle))
