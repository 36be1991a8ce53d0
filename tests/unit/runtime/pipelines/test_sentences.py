"""Where sentences end, what is cut where a model reads no more, and that nothing is ever lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.runtime.pipelines.sentences import fitting, joint, lines, packed, sentences

PIECES = (
    "Mr. ", "z.B. ", "3. ", "A", "b ", " ", "\n", "\n\n", "\r\n", ".", "... ", "! ", '?" ',
    "。", "」", "「", "！", "؟ ", "।", "1.5", "www.a.de ", "…", "é", "e\u0301", "\u3000", "(", ") ",
    "«", "» ", "\U0001f469\u200d\U0001f680",
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text()


@given(texts)
def test_sentences_joined_are_the_text(text):
    found = sentences(text)
    assert "".join(found) == text and all(found)


@given(texts)
def test_lines_joined_are_the_text(text):
    assert "".join(line + end for line, end in lines(text)) == text
    assert all(end in {"\n", "\r\n", "\r"} for _, end in lines(text)[:-1])


@given(texts, st.integers(1, 30))
def test_fitting_pieces_fit_and_joined_are_the_text(text, limit):
    found = fitting(text, limit, len)
    assert "".join(found) == text
    assert all(0 < len(piece) <= limit for piece in found)


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 100))
def test_packed_runs_are_neighbours_within_the_limit(sizes, limit):
    runs = packed(sizes, limit)
    assert [place for run in runs for place in run] == list(range(len(sizes)))
    assert all(len(run) == 1 or sum(sizes[i] for i in run) <= limit for run in runs)


def test_packed_runs_are_few_and_of_about_equal_size():
    assert packed([20, 20, 23] * 3, 95) == [range(3), range(3, 6), range(6, 9)]
    assert packed([], 5) == [] and packed([9], 5) == [range(1)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("Dr. Who met Mr. and Mrs. J. S. Bach. He left at 5.30 p.m. on Monday.", 2),
        ("See No. 5 first. I said no. Then he went.", 3),
        ("Am 3. Mai 1999. Danach kam z.B. Herr Müller. „Hallo.“ Er ging.", 4),
        ("It costs 3.50 on www.shop.com/a?b=c. Really.", 2),
        ("Ph.D. students of the U.S. Army, e.g. Ada.", 1),
        ("“Go!” he said. “No.” She left... and came back… Then", 4),
        ("他说：“你好。”然后走了。今天天气很好！是吗？对。", 4),
        ("「行く。」と言った。「A。」「B。」", 3),
        ("３．１４です。はい。", 2),
        ("यह है। वह था। ठीक।", 3),
        ("هل هذا صحيح؟ نعم. شكرا", 3),
        ("¿Qué? ¡Sí! Vale.", 3),
        ("A title\n\nThe text\n  \nThe end", 3),
        ("a line\nthat goes on", 1),
        ("Really?! Yes.", 2),
        ("", 0),
        ("   ", 1),
    ],
)
def test_sentences_end_where_a_reader_says_so(text, count):
    assert len(sentences(text)) == count


def test_a_long_text_is_cut_at_a_comma_else_at_a_space_else_between_characters():
    assert fitting("one two, three four", 12, len)[0] == "one two, "
    assert fitting("one two three", 9, len)[0] == "one two "
    assert fitting("abcdefgh", 5, len) == ["abcde", "fgh"]
    assert fitting("aaae\u0301b", 4, len)[0] == "aaa"


def test_a_text_of_millions_of_characters_takes_no_time():
    asked = []

    def count(text):
        asked.append(len(text))
        return len(text)

    text = "word " * 50_000
    assert "".join(fitting(text, 500, count)) == text
    assert sum(asked) < 4 * len(text)
    assert len(sentences("A b. " * 50_000)) == 50_000
    for hard in ("." * 10**6, "\n" * 10**6, ". " * 10**5, '.")' * 10**5, "。」" * 10**5):
        assert "".join(sentences(hard)) == hard


def test_what_stands_between_two_answers_is_a_space_but_in_chinese_and_japanese():
    assert joint("One.", "Two.") == " "
    assert joint("一。", "二。") == ""
    assert joint("一。", "Two.") == " "
    assert joint("하나.", "둘.") == " "
    assert joint("", "x") == joint("x", "") == joint("x ", "y") == ""
