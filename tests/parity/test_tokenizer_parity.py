"""Tokenizers built here from vocabularies and settings against those of transformers."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lmonnx
from lmonnx.runtime.tokenizer import Long
from tests import tiny
from tests.parity.test_native_parity import TEXTS, bundle_of
from tests.texts import NASTY

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(2)
    return torch


LETTERS = (
    "abcxyzABCXYZ019 .,!?-_'\"#[]<>/\t\n\x00\x1b\u00a0éÉüßñİǅﬁ中文日ا😀👩\u200d\u0301\ufeff\ufffd"
)
nasty = st.text(max_size=60) | st.text(st.sampled_from(LETTERS), max_size=60)
CASES = {
    "bert": ("bert", {}),
    "bert, cased": ("bert", {"do_lower_case": False}),
    "bert, accents kept": ("bert", {"strip_accents": False}),
    "bert, cased, accents stripped": ("bert", {"do_lower_case": False, "strip_accents": True}),
    "bert, Chinese not split": ("bert", {"tokenize_chinese_chars": False}),
    "distilbert, cased": ("distilbert", {"do_lower_case": False}),
    "electra": ("electra", {}),
    "electra, cased": ("electra", {"do_lower_case": False}),
    "mpnet": ("mpnet", {}),
    "mpnet, cased": ("mpnet", {"do_lower_case": False}),
    "mpnet, accents kept": ("mpnet", {"strip_accents": False}),
    "mpnet, Chinese not split": ("mpnet", {"tokenize_chinese_chars": False}),
    "roberta": ("roberta", {}),
    "roberta, prefix space": ("roberta", {"add_prefix_space": True}),
}


@pytest.fixture(scope="module", params=CASES)
def both(request, torch, tmp_path_factory):
    """Give our tokenizer and transformers', built from the same vocabulary and settings."""
    from transformers import AutoTokenizer

    family, changes = CASES[request.param]
    folder = tmp_path_factory.mktemp("tokenizers")
    source = tiny.WRITERS[family](folder / "source", tokenizer="vocab", settings=changes)
    bundle = bundle_of(source, folder / "bundle")
    model = lmonnx.load(bundle.path)
    return model.tokenizer, AutoTokenizer.from_pretrained(source, use_fast=True)


def same(both, item) -> bool:
    ours, theirs = both
    (found,) = ours.encode([item], Long.TRUNCATE)
    # As a batch of one: a pair given alone loses an empty second text.
    expected = theirs([item], truncation=True, max_length=64, return_token_type_ids=True)
    ids, types = expected["input_ids"], expected["token_type_ids"]
    return ([found.ids], [found.type_ids]) == (ids, types)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_gets_the_ids_of_transformers(both, text):
    assert same(both, text)
    assert same(both, (text, "a b"))
    assert same(both, ("", text))


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(item=nasty | st.tuples(nasty, nasty))
def test_any_text_gets_the_ids_of_transformers(both, item):
    assert same(both, item)


@pytest.mark.parametrize("case", CASES)
def test_settings_rule_over_tokenizer_json_as_in_transformers(torch, tmp_path, case):
    from transformers import AutoTokenizer

    family, changes = CASES[case]
    source = tiny.WRITERS[family](tmp_path / "source", settings=changes)
    model = lmonnx.load(bundle_of(source, tmp_path / "bundle").path)
    theirs = AutoTokenizer.from_pretrained(source, use_fast=True)
    assert all(same((model.tokenizer, theirs), text) for text in TEXTS)


ADDED = {
    "special": {"content": "<user>", "special": True, "normalized": False},
    "plain": {"content": "brandnew", "special": False, "normalized": True},
    "stripping": {"content": "<x>", "lstrip": True, "rstrip": True, "special": True},
    "whole words": {"content": "mid", "single_word": True, "special": False},
}


@pytest.mark.parametrize("kind", ADDED)
@pytest.mark.parametrize("family", tiny.PIECES)
def test_added_tokens_are_those_of_transformers(torch, tmp_path, family, kind):
    from transformers import AutoTokenizer

    count = tiny.PIECES[family]
    listed = {str(count): {"lstrip": False, "rstrip": False, "single_word": False} | ADDED[kind]}
    source = tiny.WRITERS[family](
        tmp_path / "source",
        tokenizer="vocab",
        vocab_size=count + 1,
        settings={"added_tokens_decoder": listed},
    )
    model = lmonnx.load(bundle_of(source, tmp_path / "bundle").path)
    theirs = AutoTokenizer.from_pretrained(source, use_fast=True)
    word = ADDED[kind]["content"]
    for text in (word, f"a {word} b", f"a{word}b", word.upper(), f"{word}{word}", f"x {word}."):
        assert same((model.tokenizer, theirs), text), text
