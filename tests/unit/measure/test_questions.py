"""SQuAD: its F1 and exact match, and its files."""

import json
from types import SimpleNamespace

import pytest

from lmonnx.errors import InputError
from lmonnx.measure.questions import Question, exact_match, judge_answers, read_questions, word_f1
from lmonnx.progress import silent


@pytest.mark.parametrize(
    ("given", "true", "exact", "f1"),
    [
        ("The Film!", "film", 1, 1),
        ("a good film", "film", 0, 2 / 3),
        ("good good film", "good film", 0, 4 / 5),
        ("bad", "film", 0, 0),
        ("", "", 1, 1),
        ("the", "", 1, 1),
        ("film", "", 0, 0),
    ],
)
def test_the_figures_are_squads(given, true, exact, f1):
    assert exact_match(given, true) == exact
    assert word_f1(given, true) == pytest.approx(f1)


def test_the_best_of_several_true_answers_counts_and_no_answer_is_one_too():
    asked = {}

    def model(pairs, **options):
        asked.update(options)
        return [SimpleNamespace(answer=text, score=0.5) for text in ("film", "x", "")]

    examples = [
        Question("q", "c", ("a", "the film")),
        Question("q", "c", ("x y", "z")),
        Question("q", "c", ()),
    ]
    result = judge_answers(model, examples, silent).evaluation()
    assert asked == {"handle_impossible_answer": True}
    assert (result.n, result.exact_match) == (3, pytest.approx(2 / 3))
    assert result.f1 == pytest.approx((1 + 2 / 3 + 1) / 3)


def squad(**entry):
    whole = {"question": "q", "answers": [{"text": "a", "answer_start": 0}], **entry}
    return {"data": [{"paragraphs": [{"context": "a c", "qas": [whole]}]}]}


def test_a_file_of_either_version_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(squad()))
    assert read_questions(path) == [Question("q", "a c", ("a",))]
    path.write_text(json.dumps(squad(is_impossible=True)))
    assert read_questions(path) == [Question("q", "a c", ())]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", r"\.tsv is no file of questions; it is SQuAD JSON"),
        ("a.json", "{", r"a\.json is not JSON"),
        ("a.json", "[]", "of another form; it is SQuAD JSON"),
        ("a.json", '{"data": [{}]}', "of another form"),
        ("a.json", json.dumps(squad(question=3)), "of another form"),
        ("a.json", json.dumps(squad(answers="no")), "of another form"),
        ("a.json", '{"data": []}', "has no questions"),
    ],
)
def test_another_file_is_refused_with_the_way_out(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / name)


def test_an_answer_of_articles_alone_is_none_as_squad_counts():
    def model(pairs, **_):
        return [SimpleNamespace(answer="", score=0.5) for _ in pairs]

    examples = [Question("q", "c", ("the", "a cat")), Question("q", "c", ("the",))]
    result = judge_answers(model, examples, silent).evaluation()
    assert (result.exact_match, result.f1) == (0.5, 0.5)
