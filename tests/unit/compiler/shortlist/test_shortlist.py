"""The stage: heads of every form, what is learnt, what it loses, and what is refused."""

import json

import numpy as np
import pytest

import lmonnx
from lmonnx import GateError, InputError, StageError
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Languages, Place
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.quantize import quantize
from lmonnx.compiler.quantize.pairs import Pair, PairModel
from lmonnx.compiler.quantize.sources import read_sources
from lmonnx.compiler.shortlist import shortlist
from lmonnx.compiler.shortlist.alignment import align
from lmonnx.compiler.shortlist.gate import ListedModel
from lmonnx.compiler.shortlist.learn import special_ids
from lmonnx.measure.references import Rewriting
from lmonnx.progress import silent
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.shortlist import open_shortlist
from tests.tiny_seq2seq import write_marian, write_t5
from tests.unit.compiler.shortlist.listed import made_up, write
from tests.unit.runtime.generate.tiny_seq2seq import EOS, FOLDER, variant

pytestmark = pytest.mark.compiler

TEXT = "\n".join(f"the {one} fox jumps over {other}" for one in "abcdef" for other in "uvwxyz")
LINES = TEXT.splitlines()
GREEDY = SamplingParams(max_new_tokens=8)
# Every head that lmonnx writes: tied or not, in float32, by rows with and without one scale for
# all, in blocks. How far the list's logits may be: products of blocks round what flows in.
HEADS = {
    "tied": (write_marian, None, 1e-5),
    "T5, int8": (write_t5, {}, 1e-5),
    "tied, int8": (write_marian, {}, 1e-5),
    "tied, int8 by known scales": (write_marian, {"calibrate": True}, 1e-5),
    "tied, 4 bits": (write_marian, {"bits": 4, "head_bits": 4}, 0.1),
    "tied, head of 8 bits": (write_marian, {"bits": 4, "head_bits": 8}, 0.1),
    "untied": (None, None, 1e-5),
    "untied, int8": (None, {}, 1e-5),
    "untied, 4 bits": (None, {"bits": 4}, 0.1),
}


@pytest.fixture(scope="module")
def tiny():
    return Bundle.open(FOLDER, verify=False)


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory):
    return shortlist(tiny, tmp_path_factory.mktemp("made") / "listed", text=TEXT, max_drop=1)


@pytest.mark.parametrize(("writer", "how", "near"), HEADS.values(), ids=HEADS)
def test_the_logits_of_a_list_are_those_of_the_vocabulary(tiny, tmp_path, writer, how, near):
    before = tiny
    if writer is not None:
        source = writer(tmp_path / "source")
        before = export(open_checkpoint(str(source)), tmp_path / "float", verify=False)
    if how is not None:
        options = {"text": "the quick fox\nthe dog", "max_drop": 1, "calibrate": False}
        before = quantize(before, tmp_path / "integers", **(options | how))
    vocabulary = before.manifest.generation.vocabulary
    start = before.manifest.generation.seq2seq.start_id
    some = sorted({2, 3, *range(5, vocabulary, 7)})
    after = write(before.path, tmp_path / "listed", made_up(some, {}, vocabulary))
    for ids in read_sources(before, ["the quick fox", "a dog"]):
        pair = Pair(ids, np.array([start, 5, 9, 30, 12]))
        wanted, given = PairModel(before).logits(pair), ListedModel(after).logits(pair)
        assert np.flatnonzero(given[0] > -np.inf).tolist() == some
        assert np.abs(wanted - given)[:, some].max() <= near * np.ptp(wanted)
    assert after.bytes <= before.bytes * 1.05 + 8192  # no table twice


def test_a_step_says_what_was_learnt_and_lost(tiny, made):
    step = made.manifest.history[-1]
    assert step.stage == "shortlist"
    assert step.options == {"top": 300, "per_token": 100, "max_drop": 1}
    found = step.metrics
    assert found["pairs"] == 32 and found["texts"] == 4 and found["asked"] > 0
    assert 0 < found["coverage"] <= 1 and 0 <= found["whole"] <= 1
    assert found["drop"] == pytest.approx(1 - found["agreement"])
    assert 0 < found["inside"] <= 1 and found["ids"] <= 263
    assert step.parity[0].relative <= 1e-4
    spec = made.manifest.generation.seq2seq.shortlist
    assert made.manifest.files[spec.file].bytes == 4 * len(np.fromfile(made.file(spec.file), "<i4"))


def test_answers_come_from_the_list_and_special_tokens_are_in_it(tiny, tmp_path):
    made = shortlist(tiny, tmp_path / "made", text=TEXT, top=3, per_token=2, max_drop=1)
    listed = open_shortlist(made)
    assert {EOS, *special_ids(tiny).tolist()} <= set(listed.always.tolist())
    with lmonnx.load(made.path, threads=1) as model:
        answers = model(LINES, GREEDY)
        for line, ids, answer in zip(LINES, read_sources(tiny, LINES), answers, strict=True):
            own = {*listed.always.tolist(), *listed.own(ids.tolist()).tolist()}
            assert set(answer.token_ids) <= own, line
            assert len(own) < 80


def test_the_most_frequent_alone_need_no_map(tiny, tmp_path):
    made = shortlist(tiny, tmp_path / "made", text=TEXT, top=9, per_token=0, max_drop=1)
    listed = open_shortlist(made)
    assert not len(listed.allowed) and len(listed.always) <= 9 + len(special_ids(tiny))
    with lmonnx.load(made.path, threads=1) as model:
        said = {i for answer in model(LINES, GREEDY) for i in answer.token_ids}
    assert said <= set(listed.always.tolist())


def test_references_are_learnt_and_the_figure_is_held(tiny, tmp_path):
    examples = [Rewriting(line, (f"{line[4]} sees {line[-1]}",)) for line in LINES]
    options = {"examples": examples, "top": 4, "per_token": 6}
    made = shortlist(tiny, tmp_path / "made", max_drop=1, **options)
    found = made.manifest.history[-1].metrics
    assert "BLEU" in found["measured"] or "chrf" in found["measured"].lower() or found["measured"]
    assert {"drop", "interval", "agreement", "choices", "coverage"} <= found.keys()
    assert found["coverage"] > 0.9  # the references are the same few letters


def test_too_much_lost_is_nothing_written(tiny, tmp_path):
    target = tmp_path / "made"
    with pytest.raises(GateError, match=r"the list loses .* nothing was written"):
        shortlist(tiny, target, text=TEXT, top=0, per_token=0, max_drop=0.01)
    assert not list(tmp_path.iterdir())


def test_model_1_finds_which_word_is_which():
    words = {10: 70, 11: 71, 12: 72, 13: 73}
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(60):
        source = random.choice(list(words), 2, replace=False)
        target = [90, *(words[w] for w in reversed(source))]  # 90 stands in every one
        pairs.append(Pair(source, np.array(target)))
    found = align(pairs, progress=silent)
    sources, targets = found.likeliest(1)
    assert dict(zip(sources.tolist(), targets.tolist(), strict=True)) == words
    assert found.pairs == 60
    sources, targets = found.likeliest(3)
    assert np.bincount(sources)[10:].tolist() == [3] * 4
    assert (np.diff(sources * 100 + targets) > 0).all()


def test_what_cannot_be_is_refused(tiny, made, tmp_path):
    target = tmp_path / "new"
    for options, message in (
        ({}, "give one of both"),
        ({"text": "one line"}, "at least two texts"),
        ({"text": " \n\n"}, "at least two texts"),
        ({"examples": [Rewriting("a", ("",))] * 9}, "at least two texts"),
        ({"text": TEXT, "top": -1}, "top is -1"),
        ({"text": TEXT, "per_token": -2}, "per_token is -2, must be 0 or more"),
        ({"text": TEXT, "max_drop": 2.0}, "max_drop is 2.0"),
    ):
        with pytest.raises(InputError, match=message):
            shortlist(tiny, target, **options)
    with pytest.raises(StageError, match="has a shortlist"):
        shortlist(made, target, text=TEXT)
    with pytest.raises(StageError, match="has a shortlist"):
        quantize(made, target, text=TEXT)
    decoder = FOLDER.with_name("tiny-decoder")
    with pytest.raises(StageError, match="is no encoder-decoder"):
        shortlist(Bundle.open(decoder, verify=False), target, text=TEXT)
    assert not target.exists()


def test_a_map_of_one_way_leaves_no_other(tmp_path):
    languages = Languages({"de": 260, "en": 261, "zh": 262}, Place.BEFORE, Place.FORCED)
    several = Bundle.open(variant(tmp_path / "several", languages=languages))
    with pytest.raises(InputError, match="--source-lang"):
        shortlist(several, tmp_path / "made", text=TEXT, max_drop=1)
    way = {"source_lang": "de", "target_lang": "zh"}
    made = shortlist(several, tmp_path / "made", text=TEXT, max_drop=1, **way)
    assert way.items() <= made.manifest.history[-1].options.items()
    with lmonnx.load(made.path, threads=1) as model, lmonnx.load(several.path) as free:
        assert model.languages == ("de", "zh")
        assert all(answer.token_ids[0] == 262 for answer in model(LINES, GREEDY))
        with pytest.raises(InputError, match="en"):
            model(LINES, GREEDY, target_lang="en")
        before = free(LINES, GREEDY, **way)
        same = sum(a.text == b.text for a, b in zip(model(LINES, GREEDY), before, strict=True))
        assert same > len(LINES) // 2


def test_prefixes_of_tasks_stand_before_what_is_learnt(tmp_path):
    prefixes = {"translation_a_to_b": "A: ", "translation_a_to_c": "C: "}
    stated = {name: {"num_beams": 2} for name in (*prefixes, "summarization")}
    given = {"prefixes": prefixes, "task_settings": stated}
    several = Bundle.open(variant(tmp_path / "several", **given))
    with pytest.raises(InputError, match="source_lang and target_lang"):
        shortlist(several, tmp_path / "made", text=TEXT, max_drop=1)
    made = shortlist(several, tmp_path / "made", text=TEXT, max_drop=1, target_lang="c")
    seq2seq = made.manifest.generation.seq2seq
    assert seq2seq.prefixes == {"translation_a_to_c": "C: "}
    assert set(seq2seq.task_settings) == {"translation_a_to_c", "summarization"}


def test_the_manifest_says_where_the_map_is(made):
    stated = json.loads((made.path / "lmonnx.json").read_text())["generation"]["seq2seq"]
    assert stated["shortlist"]["file"] == "shortlist.bin"
    names = [value.name for value in made.manifest.graphs["decoder"].inputs]
    assert {"shortlist", "shortlist_bias"} <= set(names)
