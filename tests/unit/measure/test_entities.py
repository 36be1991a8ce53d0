"""Entities: seqeval's rule, by hand and against seqeval; CoNLL files; words from tokens."""

import random
from importlib.util import find_spec

import numpy as np
import pytest

from lmonnx.errors import InputError
from lmonnx.measure.entities import (
    Found,
    Tagged,
    _names,
    entity_agreement,
    find_entities,
    read_tagged,
    tag_words,
)

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("", set()),
        ("O O", set()),
        ("B-PER I-PER O B-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER B-PER I-PER", {("PER", 0, 1), ("PER", 1, 3)}),
        ("I-PER I-PER", {("PER", 0, 2)}),  # no B: still one
        ("B-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),  # another type starts another
        ("B-PER I-PER E-PER I-PER", {("PER", 0, 3), ("PER", 3, 4)}),
        ("S-PER S-PER I-PER", {("PER", 0, 1), ("PER", 1, 2), ("PER", 2, 3)}),
        ("O I-creative-work", {("creative-work", 1, 2)}),
        ("PER PER O", {("PER", 0, 2)}),
        ("B I O B B", {("_", 0, 2), ("_", 3, 4), ("_", 4, 5)}),  # of one type without a name
    ],
)
def test_entities_are_those_worked_out_by_hand(tags, entities):
    assert find_entities(tags.split()) == entities


@pytest.mark.skipif(find_spec("seqeval") is None, reason="needs seqeval")
def test_entities_are_seqevals():
    from seqeval.metrics.sequence_labeling import get_entities

    draw = random.Random(0)
    tags = [*LABELS, "E-PER", "S-PER", "E-LOC", "S-LOC", "B", "I"]
    for _ in range(5000):
        row = draw.choices(tags, k=draw.randint(0, 12))
        wanted = {(kind, start, end + 1) for kind, start, end in get_entities(row)}
        assert find_entities(row) == wanted, row


def test_f1_is_over_all_entities_and_not_the_mean_of_sentences():
    found = Found((("O",), ("O",)), np.array([[1, 2, 1], [1, 1, 3]]), is_sound=True)
    assert found.score(np.arange(2)) == pytest.approx(2 * 2 / (3 + 4))
    result = found.evaluation()
    assert (result.n, result.precision, result.recall) == pytest.approx((2, 2 / 3, 2 / 4))
    assert result.f1 == pytest.approx(4 / 7)


def test_a_word_has_the_label_of_its_first_token():
    words = ("the", "Wolfgang", "in", "\u200b", "Oslo")
    tokens = [(0, 3, "O"), (4, 8, "B-PER"), (8, 12, "O"), (12, 15, "O"), (18, 22, "B-LOC")]
    assert tag_words(words, tokens) == ("O", "B-PER", "O", "O", "B-LOC")
    spaced = [(0, 3, "O"), (3, 12, "B-PER"), (12, 15, "O"), (17, 22, "B-LOC")]  # untrimmed
    assert tag_words(words, spaced)[:3] == ("O", "B-PER", "O")


def test_types_of_other_spelling_are_the_models_and_unknown_ones_count_as_missed():
    tags = ("B-person", "B-Loc", "B-product")
    names = _names([Tagged(("a", "b", "c"), tags)], LABELS)
    assert names == {"person": "PER", "Loc": "LOC"}


@pytest.mark.parametrize(
    ("tags", "message"),
    [(("O",), "no word of the 1 sentences"), (("B-gene",), "entities gene, the model LOC, PER")],
)
def test_data_without_the_models_entities_is_refused(tags, message):
    with pytest.raises(InputError, match=message):
        _names([Tagged(("a",), tags)], LABELS)


def test_conll_has_the_token_first_the_tag_last_and_blank_lines_between(tmp_path):
    path = tmp_path / "a.conll"
    lines = [
        "-DOCSTART- -X- O O",
        "",
        "EU NNP I-NP B-ORG",
        "rejects VB O O",
        "",
        "",
        "a\tO",
        " \tO",
    ]
    path.write_text("\r\n".join(lines))
    assert read_tagged(path) == [
        Tagged(("EU", "rejects"), ("B-ORG", "O")),
        Tagged(("a", ""), ("O", "O")),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,O", r"\.csv is no file of tagged words, use \.conll.*a token and its tag"),
        ("a.conll", "a O\nb\n", r"a\.conll, line 2: 1 column; write a token and its tag"),
        ("a.conll", "\n\n", "has no sentences"),
        ("a.conll", b"a O\n\xff O", r"line 2: not UTF-8"),
    ],
)
def test_another_file_is_refused_with_the_way_out(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_tagged(path)


def test_two_models_are_as_alike_as_the_entities_they_share():
    one = ["B-PER I-PER O B-LOC".split(), ["O"]]
    assert entity_agreement(one, one) == 1
    assert entity_agreement(one, ["B-PER O O B-LOC".split(), ["O"]]) == pytest.approx(0.5)
    assert entity_agreement([["O"]], [["O"]]) == 1


def test_comments_before_a_sentence_are_no_words_of_it(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("# id 7\tdomain=en\n#\tnews of 2005\nAda B-PER\n\n# O\n#1 B-PER\n")
    assert read_tagged(path) == [
        Tagged(("Ada",), ("B-PER",)),
        Tagged(("#", "#1"), ("O", "B-PER")),
    ]
