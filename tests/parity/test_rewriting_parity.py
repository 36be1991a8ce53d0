"""From a checkpoint's folder to answers: every family's tokens, scores and text are transformers'.

Random checkpoints, exported and loaded; transformers decodes one text at a time in float32.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

import lmonnx
from lmonnx import SamplingParams
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.errors import UnsupportedError
from tests import tiny_pairs
from tests.tiny_pairs import FAMILIES, MANY, MOST, Case, make
from tests.tiny_text import write_json

pytestmark = [pytest.mark.parity, pytest.mark.shared, pytest.mark.usefixtures("quiet")]

CLOSE = 1e-5  # of scores
TEXTS = (
    "A group of men are loading cotton onto a truck",
    "Ein Mann schläft in einem grünen Raum auf einem Sofa, „müde“ – 12:30 Uhr.",
    "film",
)


@pytest.fixture(scope="module", params=FAMILIES)
def case(request, tmp_path_factory) -> Case:
    return make(tmp_path_factory.mktemp("family"), request.param)


@pytest.fixture(scope="module")
def model(case):
    with case.load() as loaded:
        yield loaded


def ask(case: Case, model: Any, texts: Any, params: SamplingParams | None) -> list[Any]:
    return model(texts, params, **FAMILIES[case.name].asked)


def stops(case: Case) -> list[int]:
    """Return the end of the model and more, that some answers end early."""
    return [case.model.config.eos_token_id, *range(9, case.model.config.vocab_size, 17)]


def check(found: Any, wanted: Any, ends: Any) -> None:
    assert len(found) == len(wanted)
    for answer, (row, score, text) in zip(found, wanted, strict=True):
        length = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
        assert answer.token_ids == row[:length] and answer.text == text
        assert answer.finish_reason == ("stop" if row[length - 1] in ends else "length")
        assert score is None or answer.score == pytest.approx(score, rel=CLOSE, abs=CLOSE)


# Rules: of the tokens of the answer without rules, and of the end.
RULES = {
    "nothing": lambda seen, end: {},
    "short": lambda seen, end: {"length_penalty": 0.5},
    "long": lambda seen, end: {"length_penalty": 2.0},
    "punished": lambda seen, end: {"length_penalty": -1.0, "early_stopping": "never"},
    "eager": lambda seen, end: {"early_stopping": True, "length_penalty": 2.0},
    "never": lambda seen, end: {"early_stopping": "never", "length_penalty": 0.5},
    "pairs": lambda seen, end: {"no_repeat_ngram_size": 2},
    "least": lambda seen, end: {"min_new_tokens": 7},
    "words": lambda seen, end: {
        "bad_words_ids": [seen[:1], seen[2:4], seen[1:4], [end], [5, 6, 7, 8], [seen[-1], end]]
    },
    "suppressed": lambda seen, end: {"suppress_tokens": sorted({*seen[1:6:2], 7})},
    "repeated": lambda seen, end: {"repetition_penalty": 1.7},
    "forced": lambda seen, end: {"forced_bos_token_id": 11, "forced_eos_token_id": end},
    "all": lambda seen, end: {
        "bad_words_ids": [seen[1:2], seen[2:4]], "suppress_tokens": seen[3:4], "min_new_tokens": 3,
        "repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "forced_eos_token_id": end,
        "renormalize_logits": True, "length_penalty": 0.7,
    },
    "normal": lambda seen, end: {
        "renormalize_logits": True, "bad_words_ids": [[3], [4]], "suppress_tokens": [5]
    },
    "normal, likely": lambda seen, end: {
        "renormalize_logits": True, "bad_words_ids": [[token] for token in seen if token != end]
    },
    "normal, ruled": lambda seen, end: {
        "renormalize_logits": True, "bad_words_ids": [seen[:2], seen[3:4]],
        "forced_eos_token_id": end,
    },
}  # fmt: skip


def ours(options: dict[str, Any]) -> dict[str, Any]:
    """Return transformers' options under our names."""
    names = {"forced_bos_token_id": "forced_ids", "num_return_sequences": "n"}
    found = {names.get(name, name): value for name, value in options.items()}
    if "forced_ids" in found:
        found["forced_ids"] = [found["forced_ids"]]
    return found


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_their_tokens_scores_and_text(case, model, rule, beams):
    end, ends = case.model.config.eos_token_id, stops(case)
    for text in TEXTS:
        seen = case.unruled(text, beams)
        options = RULES[rule](seen, end)
        if FAMILIES[case.name].begins == tiny_pairs.FORCED:
            options.pop("forced_bos_token_id", None)  # the language is
        options |= {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": MOST}
        wanted = case.wanted(text, **options, eos_token_id=ends)
        params = SamplingParams(**ours(options), stop_ids=ends[1:])
        check(ask(case, model, text, params), wanted, ends)


# Company ----------------------------------------------------------------------------------------

WORDS = " ".join(TEXTS).split()
MANY_TEXTS = [" ".join(WORDS[at : at + 1 + at * 7 % 11]) for at in range(22)]
KINDS = (
    {},
    {"num_beams": 4, "n": 2},
    {"num_beams": 2, "stop_ids": (11, 50)},
    {"num_beams": 4, "bad_words_ids": [[11]], "renormalize_logits": True},
    {"repetition_penalty": 1.5},
    {"num_beams": 4, "n": 4, "no_repeat_ngram_size": 2},
    {"temperature": 1.0, "seed": 3, "top_k": 20},
)


def same(found: Any, wanted: Any) -> bool:
    return [c.token_ids for c in found] == [c.token_ids for c in wanted] and all(
        one.score is None or one.score == pytest.approx(other.score, rel=CLOSE, abs=CLOSE)
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize("options", KINDS[:2], ids=["greedy", "beams"])
def test_answers_are_the_same_in_any_company(case, model, options):
    asked = SamplingParams(max_new_tokens=MOST, stop_ids=stops(case)[1:], **options)
    alone = [ask(case, model, text, asked) for text in MANY_TEXTS]
    for slots in (4, 8):
        with case.load(slots=slots) as small:
            assert same(ask(case, small, MANY_TEXTS, asked), [*chain.from_iterable(alone)])
            turned = ask(case, small, MANY_TEXTS[::-1], asked)
            assert same(turned, [*chain.from_iterable(alone[::-1])])


def test_kinds_of_requests_of_several_threads_do_not_mix(case, model):
    asked = [
        (text, SamplingParams(max_new_tokens=2 + (at + place) % MOST, **options))
        for at, options in enumerate(KINDS)
        for place, text in enumerate(MANY_TEXTS[:8])
    ]
    alone = [ask(case, model, *each) for each in asked]
    with case.load(slots=8) as small, ThreadPoolExecutor(6) as pool:
        order = [place * 23 % len(asked) for place in range(len(asked))]
        found = list(pool.map(lambda place: ask(case, small, *asked[place]), order))
    assert all(same(each, alone[place]) for place, each in zip(order, found, strict=True))


# The checkpoint's own settings -------------------------------------------------------------------

OPUS = {
    "num_beams": 4, "bad_words_ids": [[1309]], "renormalize_logits": True, "max_length": 14,
    "forced_eos_token_id": 0,
}  # fmt: skip
SETTINGS = {
    "marian": OPUS,
    MANY: OPUS | {"bad_words_ids": [[5]], "num_beams": 6},
    "bart": {
        "num_beams": 3, "max_length": 13, "min_length": 6, "no_repeat_ngram_size": 3,
        "length_penalty": 2.0, "early_stopping": True, "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
    },
    "pegasus": {
        "num_beams": 8, "length_penalty": 0.8, "max_length": 12, "min_length": 5,
        "forced_eos_token_id": 1, "suppress_tokens": [105, 107],
    },
    "mbart": {"num_beams": 5, "max_length": 10, "early_stopping": True, "forced_eos_token_id": 2},
    "nllb": {"num_beams": 2, "max_new_tokens": 9, "repetition_penalty": 1.4},
    "t5": {"num_beams": 1, "max_length": 11, "bad_words_ids": [[600, 600], [250]]},
    "byt5": {"num_beams": 2, "max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False},
}  # fmt: skip


@pytest.fixture(scope="module", params=SETTINGS)
def settled(request, tmp_path_factory) -> Case:
    return make(tmp_path_factory.mktemp("settled"), request.param, **SETTINGS[request.param])


def test_without_params_the_checkpoints_settings_are_followed(settled):
    ends = [settled.model.config.eos_token_id]
    with settled.load() as model:
        found = ask(settled, model, TEXTS, None)
    for text, answer in zip(TEXTS, found, strict=True):
        check([answer], settled.wanted(text), ends)


@pytest.mark.parametrize("name", ["byt5", "bart"])
def test_a_text_has_as_many_answers_as_in_transformers_pipelines(tmp_path, name):
    from transformers import pipeline

    case = make(
        tmp_path, name, num_beams=4, num_return_sequences=3, max_length=13,
        remove_invalid_values=True, max_time=1000.0, no_repeat_ngram_size=2, min_length=4,
    )  # fmt: skip
    theirs = pipeline("text2text-generation", model=case.model, tokenizer=case.tokenizer)
    with case.load() as model:
        found = list(model.answers(TEXTS))
    wanted = [[each["generated_text"] for each in answers] for answers in map(theirs, TEXTS)]
    assert [[answer.text for answer in answers] for answers in found] == wanted
    assert all(len(answers) == 3 for answers in found)


@pytest.mark.parametrize("begins", [tiny_pairs.START, tiny_pairs.FORCED])
@pytest.mark.parametrize("name", ["mbart", "mbart-50", "m2m100", "nllb"])
def test_the_target_unasked_is_the_language_that_the_checkpoint_begins_with(tmp_path, name, begins):
    from transformers import AutoModelForSeq2SeqLM

    if begins == tiny_pairs.START and FAMILIES[name].begins != begins:
        pytest.skip("the decoder starts with no language")
    folder, asked = tmp_path / "checkpoint", FAMILIES[name].asked
    tokenizer, _ = tiny_pairs.write(folder, name, seed=3)
    code = asked["target_lang"]
    token = tokenizer.convert_tokens_to_ids(f"__{code}__" if name == "m2m100" else code)
    path = folder / "generation_config.json"
    stated = {"max_length": 12, "num_beams": 2, begins: token}
    write_json(path, json.loads(path.read_text()) | stated)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="float32").eval()
    bundle = export(open_checkpoint(str(folder)), tmp_path / "bundle", verify=False)
    assert bundle.manifest.generation.seq2seq.languages.target == code
    with lmonnx.load(bundle.path, threads=1) as model:
        for text in TEXTS:
            (found,) = model(text, source_lang=asked["source_lang"])
            row = theirs.generate(**tokenizer(text, return_tensors="pt"))[0].tolist()
            assert list(found.token_ids) == row[1:]


NOT_BUILT = (
    {"begin_suppress_tokens": [5]},
    {"diversity_penalty": 0.5, "num_beam_groups": 2, "num_beams": 4},
    {"do_sample": True, "num_beams": 4},
    {"encoder_no_repeat_ngram_size": 3},
    {"encoder_repetition_penalty": 1.5},
    {"exponential_decay_length_penalty": [3, 1.1]},
    {"guidance_scale": 1.5},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"sequence_bias": [[[5, 6], -3.0]]},
    {"stop_strings": ["film"]},
    {"dola_layers": "low"},
    {"constraints": []},
    {"token_healing": True},
    {"prompt_lookup_num_tokens": 3},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("refused") / "checkpoint"
    tiny_pairs.write(made, "byt5")
    return made


@pytest.mark.parametrize("setting", NOT_BUILT, ids=lambda setting: next(iter(setting)))
def test_settings_that_are_not_built_are_refused(folder, tmp_path, setting):
    """They would change answers; whoever gives params does without them, and is told so."""
    stated = {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0, **setting}
    write_json(folder / "generation_config.json", stated)
    export(open_checkpoint(str(folder)), tmp_path / "bundle", verify=False)
    with lmonnx.load(tmp_path / "bundle", threads=1) as model:
        with pytest.raises(UnsupportedError, match=next(iter(setting))):
            model("film")
        assert model("film", replace(model.built_defaults, max_new_tokens=3))


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 4, "num_return_sequences": 3},
        {"max_time": 0.0},
        {"assistant_early_exit": 1},
        {"encoder_no_repeat_ngram_size": 1},
        {"diversity_penalty": 0.5, "num_beam_groups": 2, "num_beams": 4},
        {"sequence_bias": [[[5], 9.0]]},
        *NOT_BUILT[-4:],
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_an_export_is_held_to_transformers_without_what_is_not_built(folder, tmp_path, setting):
    stated = {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0, **setting}
    write_json(folder / "generation_config.json", stated)
    bundle = export(open_checkpoint(str(folder)), tmp_path / "bundle", verify=True)
    assert bundle.manifest.history[-1].parity[0].clear_agreement == 1


@pytest.mark.parametrize("settled", ["t5"], indirect=True)
@pytest.mark.parametrize(
    ("task", "asked", "prefix"),
    [
        ("translation", {"source_lang": "en", "target_lang": "de"}, "translate English to German"),
        ("translation", {"target_lang": "fr"}, "translate English to French"),
        ("summarization", {}, "summarize"),
        ("translation", {"prefix": "say: "}, "say"),
        ("text2text-generation", {}, None),
    ],
)
def test_the_prefix_of_a_task_stands_before_a_text(settled, task, asked, prefix):
    own = {k: v for k, v in tiny_pairs.PREFIXES.get(task, {}).items() if k != "prefix"}
    said = f"{prefix}: " if prefix else ""
    wanted = [settled.wanted(text, said=said, **own) for text in TEXTS]
    with lmonnx.load(settled.bundle, task=task, threads=1) as model:
        found = model(TEXTS, **asked)
    assert [answer.token_ids for answer in found] == [rows[0][0] for rows in wanted]
