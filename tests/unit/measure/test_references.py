"""Texts and what they should become are read from every form, and faults are named."""

import json

import pytest

from lmonnx.errors import InputError
from lmonnx.measure.references import Rewriting, read_rewritings


def lines(*objects):
    return "\n".join(json.dumps(each) for each in objects)


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a"])
def test_any_plain_file_is_a_table_of_tabs(tmp_path, name):
    path = written(tmp_path, name, "آزا\tasa\nب\tb\n")
    assert read_rewritings(path) == [Rewriting("آزا", ("asa",)), Rewriting("ب", ("b",))]


def test_two_files_keep_blank_lines(tmp_path):
    source, target = written(tmp_path, "s", "ein\n\nzwei\n"), written(tmp_path, "t", "one\n\ntwo\n")
    found = read_rewritings(source, references=target)
    assert [each.source for each in found] == ["ein", "", "zwei"]


def test_two_files_of_different_lengths_are_refused(tmp_path):
    source, target = written(tmp_path, "s", "ein\nzwei\n"), written(tmp_path, "t", "one\n")
    with pytest.raises(InputError, match=r"has 2 lines, .* 1"):
        read_rewritings(source, references=target)


@pytest.mark.parametrize(
    "keys",
    [("source", "reference"), ("document", "summary"), ("article", "highlights"),
     ("dialogue", "summary"), ("text", "label"), ("input", "output"), ("de", "en")],
)  # fmt: skip
def test_keys_of_data_sets_are_known(tmp_path, keys):
    path = written(
        tmp_path,
        "a.jsonl",
        lines(
            {"id": 1, keys[0]: "x", keys[1]: "y"} if keys[0] != "de" else dict.fromkeys(keys, "x")
        ),
    )
    (found,) = read_rewritings(path)
    assert found == Rewriting("x", ("y" if keys[0] != "de" else "x",))


def test_texts_by_language_are_taken_as_asked(tmp_path):
    path = written(tmp_path, "a.jsonl", lines({"translation": {"en": "one", "de": "eins"}}))
    assert read_rewritings(path) == [Rewriting("one", ("eins",))]
    asked = read_rewritings(path, source_lang="de_DE", target_lang="en_XX")
    assert asked == [Rewriting("eins", ("one",))]
    assert read_rewritings(path, target_lang="en") == [Rewriting("eins", ("one",))]


@pytest.mark.parametrize(
    ("entry", "asked"),
    [
        ({"translation": {"de": "eins", "en": "one", "fr": "un"}}, {}),
        ({"translation": {"de": "eins", "en": "one", "fr": "un"}}, {"target_lang": "fr"}),
        ({"id": "17", "de": "eins", "en": "one"}, {}),
        ({"id": "17", "de": "eins", "en": "one"}, {"source_lang": "de"}),
        ({"translation": {"en": "one", "de": "eins"}}, {"source_lang": "fra_Latn"}),
    ],
)
def test_languages_are_not_guessed(tmp_path, entry, asked):
    path = written(tmp_path, "a.jsonl", lines(entry))
    with pytest.raises(InputError, match="name the keys with --text and --label"):
        read_rewritings(path, **asked)
    assert read_rewritings(path, text="de", label="en") == [Rewriting("eins", ("one",))]


def test_several_references_are_a_list(tmp_path):
    path = written(tmp_path, "a.jsonl", lines({"source": "x", "references": ["y", "z"]}))
    assert read_rewritings(path) == [Rewriting("x", ("y", "z"))]


def test_named_keys_go_first(tmp_path):
    path = written(tmp_path, "a.jsonl", lines({"source": "x", "mine": "m", "summary": "y"}))
    assert read_rewritings(path, label="mine") == [Rewriting("x", ("m",))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lines({"a": 1}), "no key"),
        (lines({"source": "x", "reference": 3}), "must be a text"),
        (lines({"source": "x", "references": []}), "must be a text"),
        (lines(["x"]), "not an object"),
        ("{", "line 1: not JSON"),
        ("", "no examples"),
    ],
)
def test_faults_are_named(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_rewritings(written(tmp_path, "a.jsonl", text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_rewritings(tmp_path / "none.tsv")
