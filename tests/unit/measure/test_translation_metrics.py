"""Metrics of written texts are sacrebleu's and rouge-score's own; edits are counted by hand."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.errors import UnsupportedError
from lmonnx.measure.edits import character_errors, edit_distance, exact_matches
from lmonnx.measure.written import MEASURES, TASKS, TITLES, Written, check_installed

GIVEN = ("a man rides a horse .", "two dogs run in the snow", "", "the house is small")
TRUE = (
    ("a man is riding a horse .",),
    ("two dogs run through snow .", "two dogs are running in the snow"),
    ("something",),
    ("the house is small",),
)
STREAMS = [[row[0] for row in TRUE], [row[1] if len(row) > 1 else None for row in TRUE]]
letters = st.text("abc", max_size=8)


def scores(*names):
    return Written(GIVEN, TRUE, names).evaluation().metrics


@pytest.mark.parametrize(("name", "kind"), [("bleu", "BLEU"), ("chrf", "CHRF"), ("ter", "TER")])
def test_value_and_signature_are_sacrebleus_own(name, kind):
    metric = getattr(pytest.importorskip("sacrebleu.metrics"), kind)()
    score = metric.corpus_score(list(GIVEN), STREAMS).score
    found = scores(name)[name]
    assert found.value == pytest.approx(score, abs=1e-9)
    assert found.signature == metric.get_signature().format()


def test_rouge_is_rouge_scores_own_mean_over_texts():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(
        ["rouge1", "rouge2", "rougeL"], use_stemmer=True
    )
    each = [scorer.score_multi(list(true), text) for text, true in zip(GIVEN, TRUE, strict=True)]
    for name, found in scores("rouge1", "rouge2", "rougeL").items():
        assert found.value == pytest.approx(np.mean([row[name].fmeasure for row in each]))


def test_rouge_lsum_takes_sentences_for_lines():
    pytest.importorskip("rouge_score")
    true, text = "A man rides. It is late.", "It is late. A man rides."
    found = Written((text,), ((true,),), ("rougeL", "rougeLsum")).evaluation().metrics
    assert found["rougeLsum"].value == 1
    assert found["rougeL"].value < 1


def test_intervals_hold_their_value_and_are_none_for_chrf():
    pytest.importorskip("sacrebleu")
    found = scores("bleu", "ter", "chrf", "cer", "exact_match")
    assert found.pop("chrf").interval is None
    for figure in found.values():
        assert figure.interval[0] <= figure.value <= figure.interval[1]


@given(letters, letters, letters)
def test_edit_distance_is_a_metric(a, b, c):
    assert edit_distance(a, b) == edit_distance(b, a)
    assert (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_edit_distance_by_hand():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("ähre", "ahre") == 1


def test_character_errors_are_of_the_nearest_reference():
    assert character_errors("atzmon", ("azmon", "atsmon")) == (1, 6)
    assert character_errors(" atzmon\n", ("atzmon",)) == (0, 6)


def test_exact_match_forgives_spaces_around():
    assert exact_matches("asa ", ("aza", "asa")) == (1, 1)
    assert exact_matches("Asa", ("asa",)) == (0, 1)


def test_cer_is_edits_over_all_characters():
    found = Written(("abd", "x"), (("abc",), ("xyz",)), ("cer", "exact_match"))
    metrics = found.evaluation().metrics
    assert metrics["cer"].value == 3 / 6
    assert metrics["exact_match"].value == 0


@pytest.mark.parametrize("name", MEASURES)
def test_the_score_of_right_answers_is_one_and_of_wrong_ones_less(name):
    if name not in {"cer", "exact_match"}:
        pytest.importorskip("rouge_score" if name.startswith("rouge") else "sacrebleu")
    texts = ("a man rides a horse today .", "two dogs run in the snow today")
    right = Written(texts, tuple((text,) for text in texts), (name,))
    wrong = Written(texts[::-1], right.references, (name,))
    rows = np.arange(2)
    assert right.score(rows) == pytest.approx(1)
    assert wrong.score(rows) < 1
    assert right.drop(wrong) > 0


def test_every_task_names_known_metrics():
    assert {name for names in TASKS.values() for name in names} <= set(MEASURES)


@pytest.mark.parametrize("name", ["bleu", "rougeL"])
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch):
    for module in ("sacrebleu", "rouge_score", "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnsupportedError, match=r"pip install 'lmonnx\[eval\]'"):
        check_installed([name])


def test_character_metrics_need_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    check_installed(["cer", "exact_match"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bleu", "BLEU / 100 (nrefs:1|case:mixed|"),
        ("ter", "1 − TER / 100 (nrefs:1|case:lc|"),
        ("rouge1", "ROUGE-1 ("),
        ("exact_match", "exact match"),
        ("cer", "1 − CER"),
    ],
)
def test_what_a_gate_measures_has_its_name_scale_and_signature(name, said):
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    measured = Written(("a b", "c"), (("a b",), ("d",)), (name,)).measured
    assert measured.startswith(said) and (measured == said or measured.endswith(")"))
    assert set(TITLES) == set(MEASURES)
