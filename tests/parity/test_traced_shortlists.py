"""Traced encoder-decoders with a shortlist: transformers' answers where all else is banned."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lmonnx import SamplingParams
from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.compiler.quantize import quantize
from lmonnx.compiler.shortlist import shortlist
from lmonnx.compiler.shortlist.learn import special_ids
from lmonnx.runtime.generate.shortlist import Shortlist
from tests import tiny_pairs
from tests.parity.test_rewriting_parity import TEXTS, check, stops
from tests.tiny_pairs import MOST, Case, family_of
from tests.unit.compiler.shortlist.listed import made_up, write

pytestmark = [pytest.mark.parity, pytest.mark.shared, pytest.mark.usefixtures("quiet")]

# Heads: tied with a bias, tied, tied and scaled down, untied; and an architecture that is only
# traced.
NAMES = ("marian", "m2m100", "t5", "mt5", "blenderbot")
LEARNT = "\n".join(
    f"A {one} man sleeps in the {other} room."
    for one in ("big", "small", "green", "old", "young")
    for other in ("red", "blue", "dark", "cold")
)
EXACT = 1e-4  # of the logits' range


@dataclass(frozen=True)
class Listed:
    """A traced checkpoint, in float32 and in int8."""

    case: Case
    quantized: Bundle

    @property
    def languages(self) -> dict[str, str]:
        """Return what a call and the stage are told; T5 is not asked to translate here."""
        return {} if self.case.name == "t5" else dict(family_of(self.case.name).asked)


@pytest.fixture(scope="module", params=NAMES)
def traced(request, tmp_path_factory) -> Listed:
    folder = tmp_path_factory.mktemp("traced")
    tokenizer, model = tiny_pairs.write(folder / "checkpoint", request.param)
    checkpoint = open_checkpoint(str(folder / "checkpoint"))
    bundle = export(checkpoint, folder / "bundle", engine=Engine.OPTIMUM, verify=False)
    quantized = quantize(bundle, folder / "int8", text=LEARNT, max_drop=1)
    return Listed(Case(request.param, tokenizer, model, bundle.path), quantized)


def by_token(bundle: Bundle) -> Shortlist:
    """Return a map by which every token of a source allows a few."""
    vocabulary = bundle.manifest.generation.vocabulary
    always = {*special_ids(bundle).tolist(), *range(9, vocabulary, 17)}
    lists = {t: [(11 * t + 13 * k) % vocabulary for k in range(9)] for t in range(vocabulary)}
    return made_up(sorted(always), lists, vocabulary)


def every(bundle: Bundle) -> Shortlist:
    vocabulary = bundle.manifest.generation.vocabulary
    return made_up(range(vocabulary), {}, vocabulary)


def answers(case: Case, bundle: Bundle, texts, beams: int, **asked: str):
    """Return what a bundle answers, `beams` answers a text."""
    ends = stops(case)
    params = SamplingParams(num_beams=beams, n=beams, max_new_tokens=MOST, stop_ids=ends[1:])
    listed = Case(case.name, case.tokenizer, case.model, bundle.path)
    with listed.load() as model:
        return model(list(texts), params, **asked)


@pytest.mark.parametrize("beams", [1, 4])
def test_a_list_is_transformers_with_all_else_banned(traced, tmp_path, beams):
    case, ends = traced.case, stops(traced.case)
    free = Bundle.open(case.bundle)
    chosen = by_token(free)
    asked = family_of(case.name).asked
    found = answers(case, write(free.path, tmp_path / "listed", chosen), TEXTS, beams, **asked)
    options = {"num_beams": beams, "num_return_sequences": beams, "max_new_tokens": MOST}
    said = family_of(case.name).said
    for number, text in enumerate(TEXTS):
        source = case.tokenizer(said + text)["input_ids"]
        allowed = {*chosen.always.tolist(), *chosen.own(source).tolist(), *ends}
        rest = sorted({*range(chosen.vocabulary)} - allowed)
        ruled = {"suppress_tokens": rest, "renormalize_logits": True, "eos_token_id": ends}
        wanted = case.wanted(text, **options, **ruled)
        check(found[number * beams : (number + 1) * beams], wanted, ends)


@pytest.mark.parametrize("beams", [1, 4])
def test_in_int8_a_list_of_all_ids_changes_no_answer(traced, tmp_path, beams):
    case, asked = traced.case, family_of(traced.case.name).asked
    listed = write(traced.quantized.path, tmp_path / "listed", every(traced.quantized))
    one, other = (
        answers(case, bundle, TEXTS, beams, **asked) for bundle in (traced.quantized, listed)
    )
    assert [a.token_ids for a in one] == [a.token_ids for a in other]
    scores = [a.score or 0.0 for a in one]
    assert [a.score or 0.0 for a in other] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("beams", [1, 4])
def test_in_int8_an_answer_by_a_list_hangs_on_its_own_source_alone(traced, tmp_path, beams):
    case, asked = traced.case, family_of(traced.case.name).asked
    listed = write(traced.quantized.path, tmp_path / "listed", by_token(traced.quantized))
    together = answers(case, listed, TEXTS, beams, **asked)
    alone = [a for text in TEXTS for a in answers(case, listed, [text], beams, **asked)]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    scores = [a.score or 0.0 for a in alone]
    assert [a.score or 0.0 for a in together] == pytest.approx(scores, abs=1e-5)


def test_in_int8_a_list_is_learnt_and_its_logits_are_the_models(traced, tmp_path):
    made = shortlist(
        traced.quantized, tmp_path / "listed", text=LEARNT, max_drop=1, **traced.languages
    )
    step = made.manifest.history[-1]
    assert [each.stage for each in made.manifest.history] == ["export", "quantize", "shortlist"]
    assert step.parity[0].relative <= EXACT
    assert step.metrics["ids"] < made.manifest.generation.vocabulary
    assert step.metrics["coverage"] > 0.9
