"""Encoder-decoders on the command line: `run`, and what `inspect` shows of them."""

import json
from dataclasses import replace

import pytest

import lmonnx
from lmonnx.bundle.manifest import Languages, Place, Task
from tests.cli.command_line import lines, only_line, run
from tests.unit.runtime.generate.tiny_seq2seq import FOLDER, variant

IDS = {"de": 260, "en": 261, "zh": 262}


@pytest.fixture(scope="module")
def model():
    with lmonnx.load(FOLDER) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Give a translator from German into three languages."""
    languages = Languages(IDS, Place.BEFORE, Place.FORCED, source="de")
    return variant(tmp_path_factory.mktemp("several") / "bundle", languages=languages)


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("arguments", [("-",), ("--file", "-")])
def test_a_line_in_is_a_line_out_and_an_empty_one_stays_empty(model, arguments, end):
    texts = ["one", "", "The third.", "   ", "two three"]
    result = run("run", FOLDER, *arguments, stdin="\n".join(texts) + end)
    assert result.exit_code == 0, result.output
    assert result.stdout == "".join(f"{answer.text}\n" for answer in model(texts))


TOO_LONG = ("run", FOLDER, "-", "--split", "none")


def test_a_line_that_is_too_long_has_an_empty_one_and_all_others_their_answers(model):
    texts = ["one", "x" * 96, "", "y" * 20_000, "two three"]
    result = run(*TOO_LONG, stdin="\n".join(texts))
    answers = [model(text)[0].text if len(text) < 96 else "" for text in texts]
    assert result.stdout == "".join(f"{answer}\n" for answer in answers)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "error: text 2 has 97 tokens, the model takes 96; shorten it, or allow split='auto' or "
        "'truncate'",
        "error: text 4 has 20001 tokens, the model takes 96; shorten it, or allow split='auto' or "
        "'truncate'",
        "error: 2 of the texts have no answer",
    ]
    several = run(*TOO_LONG, "--num-samples", 2, "--num-beams", 2, stdin="\n".join(texts))
    assert several.stdout.count("\n") == 2 * len(texts)


def test_a_line_that_is_too_long_is_an_error_object_of_json(model):
    result = run(*TOO_LONG, "--json", stdin=f"one\n{'x' * 96}\ntwo")
    first, wrong, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert [first["translation_text"], last["translation_text"]] == [
        model(text)[0].text for text in ("one", "two")
    ]
    assert list(wrong) == ["error"]
    assert wrong["error"].startswith("text 2 has 97 tokens")
    assert result.exit_code == 1


def test_arguments_keep_their_line_breaks(model):
    result = run("run", FOLDER, "one\n\nThe third.", "one")
    assert result.stdout == f"{model('one')[0].text}\n\na\n{model('one')[0].text}\n"


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("translation", "translation_text"),
        ("summarization", "summary_text"),
        ("text2text-generation", "generated_text"),
    ],
)
def test_json_has_the_keys_of_transformers(model, task, key):
    found = lines(run("run", FOLDER, "one", "", "--task", task, "--json"))
    assert [line[key] for line in found] == [model("one")[0].text, ""]
    assert found[0]["score"] == model("one")[0].score
    assert found[0]["finish_reason"] == "length"
    assert found[1]["score"] is None


def test_several_answers_are_a_list_a_text_best_first(model):
    asked = ("one", "two three", "--num-beams", 3, "--num-samples", 2)
    expected = model(["one", "two three"], replace(model.defaults, num_beams=3, n=2))
    found = lines(run("run", FOLDER, *asked, "--json"))
    assert [x["translation_text"] for line in found for x in line] == [x.text for x in expected]
    assert [x["score"] for line in found for x in line] == [x.score for x in expected]
    rows = run("run", FOLDER, *asked).stdout.splitlines()
    assert rows == [f"{x.score:.4f}\t{x.text}" for x in expected]


def test_options_stand_in_the_place_of_the_checkpoints_own(model):
    def answers(*asked):
        return [x["translation_text"] for x in lines(run("run", FOLDER, "one", *asked, "--json"))]

    defaults = model.defaults
    for asked, params in (
        ((), defaults),
        (("--num-beams", 1), replace(defaults, num_beams=1)),
        (("--max-new-tokens", 3), replace(defaults, max_new_tokens=3)),
        (("--length-penalty", 2), replace(defaults, length_penalty=2.0)),
        (("--temperature", 2, "--seed", 7), replace(defaults, num_beams=1, temperature=2, seed=7)),
        (("--no-repeat-ngram-size", 2), replace(defaults, no_repeat_ngram_size=2)),
    ):
        assert answers(*asked) == [x.text for x in model("one", params)]
    assert answers("--prefix", "x") == [model("xone")[0].text]
    parts = ("One. Two.", "--split", "sentences", "--json")
    assert lines(run("run", FOLDER, *parts))[0]["translation_text"] == " ".join(
        x.text for x in model(["One.", "Two."])
    )


@pytest.mark.parametrize("asked", [(), ("--num-beams", 1), ("--max-new-tokens", 3)], ids=str)
@pytest.mark.parametrize(
    "stated", [{"encoder_no_repeat_ngram_size": 3}, {"do_sample": True, "num_beams": 3}], ids=str
)
def test_what_the_checkpoint_asks_for_and_is_not_built_is_refused_with_any_option(
    tmp_path, stated, asked
):
    path = variant(tmp_path / "bundle", defaults={"max_length": 9, **stated})
    line = only_line(run("run", path, "one", *asked), 1)
    assert f"asks for {next(iter(stated))}" in line
    data = tmp_path / "data.tsv"
    data.write_text("one\ttwo\n")
    assert "not built" in only_line(run("eval", path, data, *asked), 1)


def test_a_least_length_of_the_checkpoint_above_the_most_that_is_asked_is_the_most(tmp_path):
    path = variant(tmp_path / "bundle", defaults={"min_new_tokens": 20, "max_new_tokens": 30})
    (found,) = lines(run("run", path, "one two", "--max-new-tokens", 4, "--json"))
    assert found["finish_reason"] == "length"
    refused = run("run", path, "x", "--max-new-tokens", 4, "--min-new-tokens", 5)
    assert refused.exit_code != 0 and "min_new_tokens 5 is more than" in refused.stderr


def test_chance_or_beams_is_what_the_user_says(tmp_path):
    path = variant(tmp_path / "bundle", defaults={"do_sample": True, "num_beams": 3})
    with lmonnx.load(path) as model:
        beams = model("one", replace(model.built_defaults, num_beams=3))
        drawn = model("one", replace(model.built_defaults, num_beams=1, temperature=1.0, seed=3))
    assert run("run", path, "one", "--temperature", 0).stdout == f"{beams[0].text}\n"
    asked = ("--temperature", 1, "--seed", 3)
    assert run("run", path, "one", *asked).stdout == f"{drawn[0].text}\n"


def test_the_checkpoint_says_how_many_answers_unless_fewer_beams_are_asked_for(tmp_path):
    stated = {"max_length": 9, "num_beams": 3, "num_return_sequences": 3}
    path = variant(tmp_path / "bundle", defaults=stated)
    with lmonnx.load(path) as model:
        for asked, params in (
            ((), model.defaults),
            (("--num-beams", 2), replace(model.defaults, num_beams=2, n=2)),
            (("--num-beams", 1), replace(model.defaults, num_beams=1, n=1)),
            (("--num-beams", 5), replace(model.defaults, num_beams=5)),
            (("--num-samples", 2), replace(model.defaults, n=2)),
            (("--temperature", 1, "--seed", 3),
             replace(model.defaults, num_beams=1, temperature=1.0, seed=3)),
        ):  # fmt: skip
            (found,) = lines(run("run", path, "one", *asked, "--json"))
            found = found if isinstance(found, list) else [found]
            assert [x["translation_text"] for x in found] == [x.text for x in model("one", params)]
    line = only_line(run("run", path, "one", "--num-beams", 2, "--num-samples", 3), 1)
    assert "n is 3, more than num_beams 2" in line


def test_chance_of_the_checkpoint_that_is_switched_off_leaves_one_answer(tmp_path):
    stated = {"max_length": 9, "do_sample": True, "num_return_sequences": 3}
    path = variant(tmp_path / "bundle", defaults=stated)
    assert len(run("run", path, "one", "--seed", 3).stdout.splitlines()) == 3
    with lmonnx.load(path) as model:
        greedy = replace(model.defaults, temperature=0.0, n=1)
        assert (
            run("run", path, "one", "--temperature", 0).stdout
            == f"{model('one', greedy)[0].text}\n"
        )


def test_languages_are_chosen_by_their_codes(several):
    with lmonnx.load(several) as model:
        expected = [model("one", target_lang=code)[0].text for code in IDS]
    for code, text in zip(IDS, expected, strict=True):
        assert run("run", several, "one", "--target-lang", code).stdout == f"{text}\n"
    assert "one of de, en, zh" in only_line(run("run", several, "one", "--target-lang", "xx"), 1)
    assert "give target_lang (--target-lang), one of de" in only_line(run("run", several, "one"), 1)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--num-beams", "0"), "num-beams"),
        (("--num-beams", "1000"), "num_beams is 1000; give a whole number from 1 to 64"),
        (("--num-beams", "9", "--slots", "4"), "slots=9"),
        (("--num-samples", "5"), "raise num_beams"),
        (("--max-new-tokens", "96"), "give at most 95"),
        (("--max-new-tokens", "9", "--context-length", "9"), "give at most 8"),
        (("--source-lang", "de"), "takes none"),
        (("--temperature", "1", "--num-beams", "2"), "does not sample"),
        (("--seed", "1"), "--temperature above 0"),
        (("--top-p", "0.5"), "--temperature above 0"),
        (("--top-k", "all"), "--top-k is a number"),
        (("--stop", "x"), "--stop is not for translation"),
        (("--chat",), "--chat is not for translation"),
        (("--split", "words"), "split"),
        (("--task", "text-generation"), "is for translation"),
        (("--long", "window"), "long"),
    ],
)
def test_what_cannot_be_is_one_clear_line(asked, said):
    result = run("run", FOLDER, "one", *asked)
    assert result.exit_code in {1, 2}
    assert said in result.output
    assert "Traceback" not in result.output


def test_options_of_translation_are_refused_by_a_classifier(tiny_bundle):
    for asked in (("--target-lang", "de"), ("--split", "none"), ("--prefix", "x")):
        result = run("run", tiny_bundle, "x", *asked)
        assert result.exit_code == 2
        assert "not for text-classification" in result.output
    assert "means nothing" in only_line(run("run", tiny_bundle, "x", "--slots", 2), 1)


def test_a_pair_of_languages_has_its_own_settings(tmp_path):
    prefixes = {"translation_a_to_b": "b: ", "translation_a_to_c": "c: "}
    settings = {
        "translation_a_to_b": {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5},
        "translation_a_to_c": {"guidance_scale": 2.0},
    }
    bundle = variant(tmp_path / "t5", prefixes=prefixes, task_settings=settings)
    found = lines(run("run", bundle, "one", "--target-lang", "b", "--json"))
    with lmonnx.load(bundle) as model:
        wanted = model("one", target_lang="b")
    assert [[each["translation_text"] for each in row] for row in found] == [
        [answer.text for answer in wanted]
    ]
    assert len(wanted) == 2
    line = only_line(run("run", bundle, "one", "--target-lang", "c", "--num-beams", 2), 1)
    assert "asks for guidance_scale = 2.0" in line and "task_specific_params" in line


def test_inspect_names_languages_prefixes_and_the_start(several, tmp_path):
    shown = run("inspect", several).stdout
    assert "de, en, zh" in shown
    assert "token 2" in shown
    prefixes = {"summarization": "summarize: "}
    settings = {"summarization": {"num_beams": 3, "length_penalty": 2.0}}
    asked = variant(
        tmp_path / "t5", prefixes=prefixes, task_settings=settings, task=Task.SUMMARIZATION
    )
    shown = run("inspect", asked).stdout
    assert "'summarize: '" in shown
    assert "for summarization\tlength_penalty 2, num_beams 3" in shown
    assert "languages" not in run("inspect", FOLDER).stdout
