"""The command that learns a shortlist: what it writes, prints and refuses."""

import json

import pytest

import lmonnx
from lmonnx import Bundle
from tests.cli.command_line import only_line, run
from tests.unit.runtime.generate.tiny_seq2seq import FOLDER

pytestmark = pytest.mark.compiler

LINES = [f"{one} or {other}" for one in "abcdef" for other in "uvwxyz"]


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


def test_a_list_is_learnt_printed_and_decoded_by(sources, tmp_path):
    result = run("shortlist", FOLDER, "-o", tmp_path / "made", "--data", sources, "--max-drop", 1)
    assert result.exit_code == 0, result.output
    shown = dict(line.split("\t") for line in result.stdout.splitlines())
    assert shown["learnt from"].startswith("32 pairs")
    assert "of 263 ids a source" in shown["list"] and "% of the held tokens" in shown["coverage"]
    assert "of the tokens that the input bundle chooses on 4 held texts" in shown["drop"]
    answered = run("run", tmp_path / "made", "--file", sources)
    assert answered.exit_code == 0 and answered.stdout.count("\n") == len(LINES)
    with lmonnx.load(tmp_path / "made") as model:
        assert [answer.text for answer in model(LINES)] == answered.stdout.splitlines()


def test_json_has_every_figure(sources, tmp_path):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{line}\t{line[::-1]}\n" for line in LINES), encoding="utf-8")
    options = ("--data", pairs, "--max-drop", 1, "--top", 5, "--per-token", 3, "--json")
    result = run("shortlist", FOLDER, "-o", tmp_path / "made", *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"drop", "interval", "coverage", "whole", "inside", "ids", "pairs"} <= found.keys()


@pytest.mark.parametrize(
    ("per_token", "said"),
    [(3, ", and those that its tokens allow (263 have a list)"), (0, "")],
)
def test_inspect_tells_how_many_ids_are_allowed(sources, tmp_path, per_token, said):
    options = ("--data", sources, "--max-drop", 1, "--top", 5, "--per-token", per_token)
    made = run("shortlist", FOLDER, "-o", tmp_path / "made", *options)
    assert made.exit_code == 0, made.output
    spec = Bundle.open(tmp_path / "made").manifest.generation.seq2seq.shortlist
    shown = dict(line.split("\t", 1) for line in inspected(tmp_path / "made"))
    assert shown["shortlist"] == f"{spec.always} of 263 ids for any source{said}"
    assert not any(line.startswith("shortlist") for line in inspected(FOLDER))


def inspected(bundle):
    """Return the lines before those of the graphs."""
    return run("inspect", bundle).stdout.partition("\n\n")[0].splitlines()


def test_what_loses_too_much_is_not_written(sources, tmp_path):
    options = ("--data", sources, "--top", 0, "--per-token", 0)
    result = run("shortlist", FOLDER, "-o", tmp_path / "made", *options)
    assert "the list loses" in only_line(result, 3)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing option '--data'"),
        (("--data", "nowhere.txt"), 1, "nowhere.txt cannot be read"),
        (("--data", "nowhere.txt", "--top", -1), 2, "--top"),
        (("--data", "nowhere.txt", "--per-token", "many"), 2, "--per-token"),
        (("--data", "nowhere.txt", "--max-drop", 3), 2, "--max-drop"),
    ],
)
def test_bad_options_are_refused(tmp_path, arguments, code, message):
    result = run("shortlist", FOLDER, "-o", tmp_path / "made", *arguments)
    assert result.exit_code == code and message in result.stderr
    assert not (tmp_path / "made").exists()
