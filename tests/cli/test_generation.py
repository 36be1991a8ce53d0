"""Decoders on the command line: `run`, `chat`, `eval`, `bench`."""

import json

import pytest

import lmonnx
from lmonnx import SamplingParams
from tests.cli.command_line import lines, only_line, run
from tests.conftest import ROOT

DECODER = ROOT / "tests" / "unit" / "runtime" / "generate" / "tiny-decoder"


@pytest.fixture(scope="module")
def model():
    with lmonnx.load(DECODER) as loaded:
        yield loaded


def test_json_is_an_object_a_completion_in_the_order_of_the_prompts(model):
    prompts = ["one", "two, three", ""]
    found = lines(run("run", DECODER, *prompts, "--max-new-tokens", 7, "--json"))
    expected = model(prompts, SamplingParams(max_new_tokens=7))
    for line, answer in zip(found, expected, strict=True):
        assert line["text"] == answer.text
        assert line["finish_reason"] == answer.finish_reason
        assert line["prompt_tokens"] == answer.prompt_tokens
        assert line["completion_tokens"] == answer.completion_tokens


def test_one_prompt_alone_is_completed_as_plain_text(model):
    result = run("run", DECODER, "one", "--max-new-tokens", 9)
    assert result.exit_code == 0, result.output
    answer = model("one", SamplingParams(max_new_tokens=9))[0]
    printable = "".join(c for c in answer.text if c.isalnum())
    assert printable in "".join(c for c in result.stdout if c.isalnum())


def test_a_seed_draws_the_same_tokens_and_another_one_others(model):
    def drawn(seed):
        asked = ("--temperature", 2, "--top-k", 50, "--seed", seed, "--max-new-tokens", 20)
        return lines(run("run", DECODER, "x", "y", *asked, "--json"))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_samples_and_beams_are_lines_of_their_own():
    asked = ("--num-beams", 3, "--num-samples", 2, "--max-new-tokens", 4, "--json")
    found = lines(run("run", DECODER, "a", "b", *asked))
    assert len(found) == 4
    assert found[0]["score"] >= found[1]["score"]


def test_chat_applies_the_template_and_a_system_message(model):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
    asked = ("--chat", "--system", "s", "hello", "--max-new-tokens", 5, "--json")
    found = lines(run("run", DECODER, *asked))
    assert found[0]["prompt_tokens"] == len(model.chat_prompt(messages))
    assert "--chat" in run("run", DECODER, "--system", "s", "hello").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("x", "--temperature", "-1"), "temperature"),
        (("x", "--temperature", "nan"), "temperature"),
        (("x", "--max-new-tokens", "0"), "max-new-tokens"),
        (("x", "--schema", "no-such-file.json"), "cannot be read"),
        (("x", "--grammar", "no-such-file.lark"), "cannot be read"),
        (("x", "--long", "window"), "long"),
        (("x", "--top-k", "all"), "--top-k is a number"),
        (("x", "--candidate-labels", "a"), "is for text-generation"),
        (("word " * 500,), "160"),
        (("x", "--num-beams", "1000"), "num_beams"),
        (("x", "--seed", "1"), "--temperature above 0"),
        (("x", "--top-p", "0.5", "--temperature", "0"), "--temperature above 0"),
        (("x", "--num-beams", "3", "--slots", "2"), "the cache has 2"),
        (("x" * 20, "--context-length", "9"), "the context 9"),
        (("x", "--context-length", "161"), "the model takes 160"),
        (("x", "--split", "none"), "--split is not for text-generation"),
    ],
)
def test_what_cannot_be_is_one_clear_line(arguments, said):
    result = run("run", DECODER, *arguments)
    assert result.exit_code in {1, 2}
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["--schema", "--grammar"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b" " * (2**20 + 1), "is larger than 1 MiB"), (b"\xff\xfe", "is no UTF-8 text (at byte 0)")],
)
def test_a_file_that_is_no_text_is_refused_by_its_name(tmp_path, option, content, said):
    path = tmp_path / "form"
    path.write_bytes(content)
    assert f"{option}: {path} {said}" in only_line(run("run", DECODER, "x", option, path), 1)


def test_options_that_are_no_sampling_params_are_refused(model):
    with pytest.raises(lmonnx.InputError, match="give SamplingParams"):
        model("x", {"temperature": 1})


def test_options_of_decoding_are_refused_by_a_classifier(tiny_bundle):
    result = run("run", tiny_bundle, "x", "--max-new-tokens", 4)
    assert result.exit_code == 2
    assert "not for text-classification" in result.output


def test_a_conversation_is_kept_forgotten_and_ended(model):
    said = "hello\nand then?\n/reset\nhello\n/exit\nnever\n"
    result = run("chat", DECODER, "--max-new-tokens", 5, stdin=said)
    assert result.exit_code == 0, result.output
    figures = [line for line in result.stderr.splitlines() if line.startswith("[")]
    assert len(figures) == 3
    assert figures[0].split(",")[0] == figures[2].split(",")[0]  # forgotten: the same prompt
    assert figures[1].split(" ")[0] != figures[0].split(" ")[0]


def test_a_message_over_the_context_is_said_and_the_conversation_goes_on():
    result = run("chat", DECODER, "--max-new-tokens", 3, stdin=f"{'x' * 500}\nhello\n")
    assert result.exit_code == 0
    assert "error: " in result.stderr
    assert "/reset" in result.stderr
    assert "[" in result.stderr.splitlines()[-1]


def test_chat_is_for_decoders(tiny_bundle):
    result = run("chat", tiny_bundle, stdin="")
    assert result.exit_code == 1
    assert "text-generation" in result.output


def test_eval_gives_the_perplexity_of_a_text(model, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 9, encoding="utf-8")
    asked = ("eval", DECODER, path, "--window", 64, "--stride", 16, "--json")
    (found,) = lines(run(*asked))
    score = model.score(path.read_text(encoding="utf-8"), window=64, stride=16)
    assert found["perplexity"] == pytest.approx(score.perplexity)
    assert found["predictions"] == len(score.logprobs)
    path.write_bytes(b"\xff\xfe")
    assert "UTF-8" in run(*asked).output
    assert "Error" in run("eval", DECODER, path, "--window", 1).output


def test_bench_gives_every_figure():
    asked = ("--prompt-tokens", 20, "--new-tokens", 5, "--rounds", 1, "--json")
    found = json.loads(run("bench", DECODER, *asked).stdout)
    assert [x["requests"] for x in found["together"]] == [1, 2, 4, 8, 16]
    for name in ("ttft_ms", "prefill_tokens_per_s", "inter_token_p99_ms", "decode_tokens_per_s"):
        assert found[name] > 0
    assert "own" in run("bench", DECODER, "--file", "-", stdin="x").output


def test_bench_tokens_are_for_decoders(tiny_bundle):
    assert run("bench", tiny_bundle, "--new-tokens", 5).exit_code == 2
