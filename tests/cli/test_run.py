"""`lmonnx run`: texts in, answers out, in their order."""

import pytest

from lmonnx.cli import render
from tests.cli.command_line import lines, only_line, run

TEXTS = ("the film is good", "bad, bad film", "")


def test_json_is_an_object_a_line_with_the_pipelines_own_answer(tiny_bundle, tiny_model):
    found = lines(run("run", tiny_bundle, *TEXTS, "--json", "--threads", 1))
    for line, answer in zip(found, tiny_model(TEXTS), strict=True):
        assert line == {"label": answer.label, "score": answer.score, "windows": 1}


def test_top_k_gives_the_best_labels_highest_first(tiny_bundle, tiny_model):
    (line,) = lines(run("run", tiny_bundle, "good", "--json", "--top-k", "all"))
    assert line["labels"][0]["label"] == line["label"]
    assert len(line["labels"]) == len(tiny_model.head.labels)
    assert line["labels"][0]["score"] >= line["labels"][-1]["score"]
    assert len(lines(run("run", tiny_bundle, "a", "--json", "--top-k", 9))[0]["labels"]) == 2


def test_plain_output_is_label_score_and_text_with_tabs_between(tiny_bundle, tiny_model):
    result = run("run", tiny_bundle, "good\tfilm\n\x1b[31m", "bad")
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[2] for row in rows] == ["good\\tfilm\\n\\x1b[31m", "bad"]
    assert rows[1][:2] == [tiny_model("bad").label, f"{tiny_model('bad').score:.4f}"]


def test_a_file_is_read_by_lines_after_the_arguments(tiny_bundle, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffé\r\n\nbad".encode())
    result = run("run", tiny_bundle, "first", "--file", path)
    assert [line.split("\t")[2] for line in result.stdout.splitlines()] == ["first", "é", "", "bad"]


def test_standard_input_is_a_file_and_more_than_a_chunk_keeps_its_order(tiny_bundle, tiny_model):
    texts = [f"film {i}" for i in range(2100)]
    found = lines(run("run", tiny_bundle, "--file", "-", "--json", stdin="\n".join(texts)))
    assert len(found) == 2100
    assert found[2099]["score"] == pytest.approx(tiny_model(texts[2099]).score, abs=1e-5)


def test_no_line_of_an_empty_file_gives_no_answer(tiny_bundle):
    result = run("run", tiny_bundle, "--file", "-", stdin="")
    assert (result.exit_code, result.output) == (0, "")


def test_one_second_text_is_for_all_and_several_are_one_for_each(tiny_bundle, tiny_model):
    one = lines(run("run", tiny_bundle, "a", "b", "--text-pair", "c", "--json"))
    each = (
        "run",
        tiny_bundle,
        "a",
        "--text-pair",
        "c",
        "--text-pair",
        "d",
        "--json",
        "--file",
        "-",
    )
    several = lines(run(*each, stdin="b\n"))
    assert [x["score"] for x in one] == pytest.approx(scores(tiny_model, "ac", "bc"), abs=1e-6)
    assert [x["score"] for x in several] == pytest.approx(scores(tiny_model, "ac", "bd"), abs=1e-6)


def scores(model, *pairs: str) -> list[float]:
    return [model((first, second)).score for first, second in pairs]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give TEXT, or --file PATH"),
        (("a", "b", "c", "--text-pair", "x", "--text-pair", "y"), "2 --text-pair for more texts"),
        (("a", "--text-pair", "x", "--text-pair", "y"), "2 --text-pair for 1 texts"),
        (("a", "--top-k", "0"), "neither a number of at least 1 nor 'all'"),
        (("a", "--top-k", "few"), "neither a number of at least 1 nor 'all'"),
        (("a", "--threads", "0"), "--threads"),
        (("a", "--long", "cut"), "--long"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_right(tiny_bundle, args, message):
    result = run("run", tiny_bundle, *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_long_text_is_windowed_cut_or_refused(tiny_bundle):
    text = "film " * 500
    assert lines(run("run", tiny_bundle, text, "--json"))[0]["windows"] > 1
    assert lines(run("run", tiny_bundle, text, "--json", "--long", "truncate"))[0]["windows"] == 1
    assert "shorten it" in only_line(run("run", tiny_bundle, text, "--long", "error"), 1)


def test_bytes_that_are_no_text_are_an_error_that_names_them(tiny_bundle):
    assert "argument 'a?' is not UTF-8" in only_line(run("run", tiny_bundle, "a\udcff"), 1)
    result = run("run", tiny_bundle, "--file", "-", stdin=b"a\n\xff\n")
    assert "standard input, line 2: not UTF-8" in only_line(result, 1)


def test_a_missing_file_provider_or_bundle_is_one_line(tiny_bundle, tmp_path):
    assert "cannot be read" in only_line(run("run", tiny_bundle, "--file", tmp_path / "x"), 1)
    assert "NoneSuch is not in" in only_line(
        run("run", tiny_bundle, "a", "--provider", "NoneSuch"), 1
    )
    assert "has no lmonnx.json" in only_line(run("run", tmp_path, "a"), 1)


def test_a_label_that_the_output_cannot_carry_is_escaped(monkeypatch):
    assert render.to_json({"é": "\ud800"}) == '{"\\u00e9": "\\ud800"}'
    assert render.to_json({"é": float("nan")}) == '{"é": null}'


@pytest.fixture
def terminal(monkeypatch):
    """Make standard output pass for a terminal of 60 columns."""
    monkeypatch.setattr(render, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_table_whose_text_is_cut(tiny_bundle):
    shown = run("run", tiny_bundle, "[bold]good[/bold] " * 20).stdout
    heading, row = shown.splitlines()
    assert heading.split() == ["label", "score", "text"]
    assert "[bold]good[/bold]" in row
    assert row.rstrip().endswith("…")
    assert len(row) <= 60
