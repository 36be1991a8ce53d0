"""eval and bench of encoder-decoders: what they read, count and refuse."""

import json
from dataclasses import replace

import pytest

import lmonnx
from tests.cli.command_line import lines, only_line, run
from tests.unit.runtime.generate.tiny_seq2seq import FOLDER, variant

TEXTS = ["one", "", "The third.", "two three"]


@pytest.fixture(scope="module")
def answers():
    with lmonnx.load(FOLDER) as model:
        yield [found.text for found in model(TEXTS)]


@pytest.fixture
def files(tmp_path, answers):
    """Give sources, and the model's own answers, the last one wrong."""
    sources, references = tmp_path / "a.src", tmp_path / "a.ref"
    sources.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    references.write_text("\n".join([*answers[:-1], "nothing"]) + "\n", encoding="utf-8")
    return sources, references


def test_eval_of_two_files_counts_what_is_asked(files):
    sources, references = files
    asked = ("--references", references, "--metric", "exact_match", "--metric", "cer", "--json")
    (found,) = lines(run("eval", FOLDER, sources, *asked))
    assert found["n"] == len(TEXTS)
    assert list(found["metrics"]) == ["exact_match", "cer"]
    assert found["metrics"]["exact_match"]["value"] == 3 / 4
    assert found["metrics"]["cer"]["value"] > 0


def test_eval_prints_a_metric_a_line_with_its_signature(files):
    pytest.importorskip("sacrebleu")
    sources, references = files
    result = run("eval", FOLDER, sources, "--references", references, "--metric", "bleu")
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("BLEU"))
    assert "nrefs:1|case:mixed" in line


def test_eval_reads_objects_with_the_usual_keys(tmp_path, answers):
    path = tmp_path / "a.jsonl"
    pairs = zip(TEXTS, answers, strict=True)
    path.write_text("\n".join(json.dumps({"source": s, "target": t}) for s, t in pairs))
    asked = ("--metric", "exact_match", "--num-beams", 1, "--max-new-tokens", 4, "--json")
    (found,) = lines(run("eval", FOLDER, path, *asked))
    assert found["n"] == len(TEXTS)
    (right,) = lines(run("eval", FOLDER, path, "--metric", "exact_match", "--json"))
    assert right["metrics"]["exact_match"]["value"] == 1


@pytest.mark.parametrize("beams", [1, 2, 3])
def test_eval_takes_the_best_of_a_checkpoints_several_answers(tmp_path, beams):
    stated = {"max_length": 9, "num_beams": 3, "num_return_sequences": 3}
    path = variant(tmp_path / "bundle", defaults=stated)
    with lmonnx.load(path) as model:
        best = model(TEXTS, replace(model.defaults, num_beams=beams, n=1))
    data = tmp_path / "a.jsonl"
    pairs = zip(TEXTS, (answer.text for answer in best), strict=True)
    data.write_text("\n".join(json.dumps({"source": s, "target": t}) for s, t in pairs))
    asked = () if beams == 3 else ("--num-beams", beams)
    (found,) = lines(run("eval", path, data, "--metric", "exact_match", *asked, "--json"))
    assert (found["n"], found["metrics"]["exact_match"]["value"]) == (len(TEXTS), 1)


def test_eval_names_the_row_that_is_too_long_of_all_rows(tmp_path):
    path = tmp_path / "a.tsv"
    rows = 2000  # more than are read at once
    path.write_text("one\ttwo\n" * rows + "x" * 96 + "\ttwo\n")
    asked = ("--metric", "cer", "--split", "none", "--max-new-tokens", 1, "--num-beams", 1)
    line = only_line(run("eval", FOLDER, path, *asked), 1)
    assert f"row {rows + 1} has 97 tokens, the model takes 96" in line


def test_files_of_different_lengths_are_refused(files):
    sources, references = files
    references.write_text("one\n")
    line = only_line(run("eval", FOLDER, sources, "--references", references), 1)
    assert "4 lines" in line


def test_options_of_others_are_refused(files, tiny_bundle):
    sources, references = files
    result = run("eval", FOLDER, sources, "--window", 4)
    assert (result.exit_code, "--window is for decoders" in result.stderr) == (2, True)
    result = run("eval", tiny_bundle, sources, "--references", references)
    assert (result.exit_code, "--references is for encoder-decoders" in result.stderr) == (2, True)
    result = run("bench", FOLDER, "--prompt-tokens", 4)
    assert (result.exit_code, "--prompt-tokens is for decoders" in result.stderr) == (2, True)


@pytest.mark.parametrize("answers_a_text", [1, 2])
def test_bench_has_a_rate_for_each_number_of_texts_and_beams(tmp_path, files, answers_a_text):
    stated = {"num_beams": 2, "num_return_sequences": answers_a_text}
    bundle = variant(tmp_path / "bundle", defaults=stated)
    asked = ("--file", files[0], "--rounds", 1, "--threads", 1, "--new-tokens", 3, "--json")
    (found,) = lines(run("bench", bundle, *asked))
    assert [(rate["beams"], rate["texts"]) for rate in found["rates"]] == [
        (beams, texts) for beams in (1, 4) for texts in (1, 16, 100)
    ]
    for rate in found["rates"]:
        assert rate["tokens_per_s"] == pytest.approx(3 * rate["texts_per_s"])
    assert found["load_ms"] > 0
