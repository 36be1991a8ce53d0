"""`lmonnx run` for every task: the keys of transformers' pipelines, and options that fit."""

import json

import numpy as np
import pytest

import lmonnx
from tests.cli.command_line import lines, only_line, run
from tests.conftest import GOLDEN

NER, QA, MLM, NLI, RANKER, EMBEDDER = (
    GOLDEN / f"tiny-{name}" for name in ("ner", "qa", "mlm", "nli", "ranker", "embedder")
)
TEXTS = ("the film is good", "bad film")


def test_entities_are_a_list_a_text(tiny_bundle):
    strategy = ("--aggregation-strategy", "simple")
    found = lines(run("run", NER, *TEXTS, "--json", *strategy))
    expected = lmonnx.load(NER)(TEXTS, aggregation_strategy="simple")
    assert [[x["word"] for x in text] for text in found] == [[x.word for x in t] for t in expected]
    assert list(found[0][0]) == ["entity_group", "score", "word", "start", "end"]
    assert list(lines(run("run", NER, *TEXTS, "--json"))[0][0])[:3] == ["entity", "score", "index"]
    assert run("run", NER, *TEXTS).stdout.splitlines()[0].count("\t") == 4


def test_a_question_takes_its_context_from_an_option_arguments_or_a_file():
    asked = ("--question", "what is good", "--json")
    by_option = lines(run("run", QA, *asked, "--context", TEXTS[0]))
    assert by_option == lines(run("run", QA, *asked, TEXTS[0]))
    assert by_option == lines(run("run", QA, *asked, "--file", "-", stdin=TEXTS[0]))
    assert list(by_option[0]) == ["score", "start", "end", "answer"]
    several = lines(run("run", QA, *asked, "--context", TEXTS[0], "--top-k", 2))
    assert len(several[0]) == 2


def test_masks_are_filled_by_the_best_or_by_targets():
    mask = lmonnx.load(MLM).bundle.manifest.text.source.mask_token
    text = f"the {mask} is good"
    (found,) = lines(run("run", MLM, text, "--json", "--top-k", 3))
    assert [list(x) for x in found] == [["score", "token", "token_str", "sequence"]] * 3
    (found,) = lines(run("run", MLM, text, "--json", "--targets", "film"))
    assert [x["token_str"] for x in found] == ["film"]
    (found,) = lines(run("run", MLM, f"{mask} {mask}", "--json"))
    assert [len(masks) for masks in found] == [5, 5]


@pytest.mark.parametrize("labels", ["good,bad", " good , bad ,"])
def test_labels_are_chosen_from_a_list_with_commas(labels):
    (found,) = lines(run("run", NLI, TEXTS[0], "--candidate-labels", labels, "--json"))
    assert list(found) == ["sequence", "labels", "scores"]
    assert set(found["labels"]) == {"good", "bad"}
    assert sum(found["scores"]) == pytest.approx(1)
    each = ("--candidate-labels", "good,bad", "--multi-label", "--hypothesis-template", "It is {}.")
    assert lines(run("run", NLI, TEXTS[0], *each, "--json"))


def test_documents_are_lines_best_first():
    found = lines(run("run", RANKER, "--query", "film", *TEXTS, "--json"))
    assert sorted(x["index"] for x in found) == [0, 1]
    assert found[0]["score"] >= found[1]["score"]
    assert len(lines(run("run", RANKER, "--query", "film", *TEXTS, "--json", "--top-k", 1))) == 1


def test_vectors_are_lists_of_numbers():
    found = np.array(lines(run("run", EMBEDDER, *TEXTS, "--json")))
    np.testing.assert_allclose(found, lmonnx.load(EMBEDDER)(list(TEXTS)), atol=1e-6)
    cut = lines(run("run", EMBEDDER, *TEXTS, "--json", "--dimensions", 4, "--precision", "int8"))
    assert [len(vector) for vector in cut] == [4, 4]
    assert all(isinstance(value, int) for vector in cut for value in vector)
    assert len(run("run", EMBEDDER, *TEXTS).stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("bundle", "args", "message"),
    [
        (NER, ("a", "--question", "b"), "--question is not for token-classification"),
        (QA, ("a",), "give --question"),
        (QA, ("--question", "a", "--question", "b", "x", "y", "z"), "2 --question for more texts"),
        (EMBEDDER, ("a", "--top-k", "2"), "--top-k is not for feature-extraction"),
        (MLM, ("a", "--aggregation-strategy", "max"), "is not for fill-mask"),
        (NER, ("a", "--aggregation-strategy", "most"), "--aggregation-strategy"),
        (NLI, ("a", "--candidate-labels", " , "), "give --candidate-labels"),
        (QA, ("--question", "a"), "or --context"),
        (QA, ("--question", "a", "b", "--top-k", "all"), "--top-k is a number"),
    ],
)
def test_options_that_do_not_fit_exit_2_and_say_so(bundle, args, message):
    result = run("run", bundle, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("bundle", "args", "message"),
    [
        (NER, ("a", "--candidate-labels", "b"), "is for token-classification, not for"),
        (MLM, ("no mask here",), "has no [MASK]"),
        (QA, ("--question", "", "--context", "x"), "question"),
        (NER, ("a", "--stride", "2"), "aggregation_strategy"),
        (NLI, ("a", "--candidate-labels", "b", "--hypothesis-template", "none"), "{}"),
        (EMBEDDER, ("a", "--dimensions", "9999"), "dimensions"),
        (EMBEDDER, ("a", "--prompt-name", "none such"), "prompt_name"),
    ],
)
def test_what_cannot_be_answered_is_one_line(bundle, args, message):
    assert message in only_line(run("run", bundle, *args), 1)


def test_a_target_that_is_no_token_is_said_to_be_replaced():
    mask = lmonnx.load(MLM).bundle.manifest.text.source.mask_token
    result = run("run", MLM, f"a {mask}", "--targets", "filmzz", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout.splitlines()[0])


@pytest.mark.parametrize("bundle", [MLM, NER, EMBEDDER])
def test_a_mapping_is_not_read_by_its_keys(bundle):
    with pytest.raises(lmonnx.InputError, match="dict"):
        lmonnx.load(bundle)({"a": 1})
    with pytest.raises(lmonnx.InputError, match="dict"):
        lmonnx.load(NLI)({"a": 1}, "b")
    with pytest.raises(lmonnx.InputError, match="dict"):
        lmonnx.load(RANKER)("q", {"a": 1})


def test_answers_before_an_error_are_printed(tmp_path):
    mask = lmonnx.load(MLM).bundle.manifest.text.source.mask_token
    path = tmp_path / "texts"
    path.write_text("\n".join([f"a {mask}"] * 1500 + ["no mask"]))
    result = run("run", MLM, "--file", path, "--json", "--top-k", 1)
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[0])
