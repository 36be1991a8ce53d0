"""Masked words: only whole ones, the same at every run, and beside their own token."""

import pytest

from lmonnx import load
from lmonnx.errors import InputError
from lmonnx.measure.masks import _masked, judge_masks, read_lines
from lmonnx.progress import silent
from tests.conftest import GOLDEN


@pytest.fixture(scope="module")
def model():
    return load(GOLDEN / "tiny-mlm", threads=1)


def test_a_masked_word_is_one_token_and_its_own(model):
    texts = ["the film is not good", "!? ...", "zzzz good film zz", f"a {model.mask_token} b"]
    masked = list(_masked(model, texts))
    assert len(masked) == 2
    for (text, token), whole in zip(masked, (texts[0], texts[2]), strict=True):
        assert text.replace(model.mask_token, model.tokenizer.token(token)) == whole
    assert masked == list(_masked(model, texts))


def test_the_share_of_right_tokens_is_between_none_and_all(model):
    found = judge_masks(model, ["the film is good"] * 5, silent)
    assert len(found) == 5 and 0 <= found.evaluation().accuracy <= 1
    assert found.agreement(found) == 1


def test_text_without_such_a_word_is_refused(model):
    with pytest.raises(InputError, match="no text has a word that is one token"):
        judge_masks(model, ["!", ""], silent)


def test_texts_are_lines_or_a_column(tmp_path):
    (tmp_path / "a.txt").write_text("one, two\n\n \nthree\n")
    (tmp_path / "a.csv").write_text("body,x\none,2\n")
    assert read_lines(tmp_path / "a.txt", "0") == ["one, two", "three"]
    assert read_lines(tmp_path / "a.csv", "body") == ["one"]


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("\n", "no text")])
def test_a_file_without_text_is_refused(tmp_path, content, message):
    if content:
        (tmp_path / "a.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        read_lines(tmp_path / "a.txt", "0")
