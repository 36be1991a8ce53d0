"""Decoding by a shortlist: the same answers where it holds all, no other company's, all rules."""

import numpy as np
import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import MANIFEST
from lmonnx.errors import BundleError
from lmonnx.runtime.generate.capacity import Capacity
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.seq2seq_engines import Seq2SeqEngines
from lmonnx.runtime.session import SessionConfig
from tests.unit.compiler.shortlist.listed import made_up, write
from tests.unit.runtime.generate.tiny_seq2seq import EOS, FOLDER, START, VOCABULARY

pytestmark = pytest.mark.compiler

SOURCES = [[4 + (7 * i + j * j) % 256 for j in range(1 + i * 5 % 19)] + [EOS] for i in range(40)]
ALWAYS = (START, EOS, *range(101, 109))
LISTS = {t: [(11 * t + 3 * k) % VOCABULARY for k in range(9)] for t in range(4, 250)}
KINDS = (
    {},
    {"num_beams": 4, "n": 3},
    {"num_beams": 3, "n": 3, "renormalize_logits": True, "suppress_tokens": (101, 102, 200)},
    {"num_beams": 2, "stop_ids": (40, 41)},
    {"no_repeat_ngram_size": 1, "num_beams": 3},
    {"temperature": 1.0, "seed": 5, "n": 2},
    {"temperature": 0.7, "top_k": 5, "seed": 3},
    {"repetition_penalty": 1.3},
    {"suppress_tokens": (EOS, 100), "forced_ids": (9,)},
    {"forced_ids": (9, 12), "forced_eos_token_id": EOS, "num_beams": 2},
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Give the frozen bundle with a list of all ids, and with lists by token."""
    place = tmp_path_factory.mktemp("listed")
    every = made_up(range(VOCABULARY), {}, VOCABULARY)
    write(FOLDER, place / "every", every)
    write(FOLDER, place / "some", made_up(ALWAYS, LISTS, VOCABULARY))
    return {"none": FOLDER, "every": place / "every", "some": place / "some"}


@pytest.fixture
def load(folders):
    made = []

    def make(name, slots=8, **config):
        bundle = Bundle.open(folders[name], verify=False)
        settings = SessionConfig(**{"threads": 1} | config)
        made.append(Seq2SeqEngines(bundle, settings, capacity=Capacity(slots=slots)))
        return made[-1]

    yield make
    for engines in made:
        engines.close()


def run(engines, sources, options, count=12):
    """Return the answers of each source."""
    params = SamplingParams(max_new_tokens=count, **options)
    return engines.run(sources, params, start_id=START)


def tokens(found):
    return [[(each.token_ids, each.finish_reason) for each in answers] for answers in found]


def scores(found):
    return [each.score or 0.0 for answers in found for each in answers]


def allowed(source):
    return {*ALWAYS, *(index for token in source for index in LISTS.get(token, ()))}


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_list_of_all_ids_changes_nothing(load, options):
    one, other = (run(load(name), SOURCES, options) for name in ("none", "every"))
    assert tokens(one) == tokens(other)
    assert scores(one) == pytest.approx(scores(other), abs=1e-6)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_answer_is_the_same_in_any_company(load, options):
    small, large = load("some", slots=4), load("some", slots=128)
    single = load("some", threads=2, thread_per_batch=True)
    alone = [run(large, [source], options)[0] for source in SOURCES]
    for engines in (small, large, single):
        found = run(engines, SOURCES, options)
        assert tokens(found) == tokens(alone)
        assert scores(found) == pytest.approx(scores(alone), abs=1e-6)  # float32: as without
        assert tokens(run(engines, SOURCES[::-1], options)) == tokens(alone[::-1])
    assert len(single._singles) == 2


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_only_what_is_listed_stopped_at_or_forced_is_said(load, options):
    free = {*options.get("stop_ids", ()), *options.get("forced_ids", ())}
    for source, answers in zip(SOURCES, run(load("some"), SOURCES, options), strict=True):
        for answer in answers:
            assert set(answer.token_ids) <= allowed(source) | free


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "n": 2, "renormalize_logits": True}], ids=str
)
def test_a_list_is_a_ban_of_all_else(load, options):
    listed, free = load("some"), load("none")
    for source in SOURCES[:12]:
        rest = tuple(set(range(VOCABULARY)) - allowed(source))
        (one,) = run(listed, [source], {k: v for k, v in options.items() if k[0] != "r"})
        (other,) = run(free, [source], options | {"suppress_tokens": rest})
        assert tokens([one]) == tokens([other])
        assert scores([one]) == pytest.approx(scores([other]), abs=1e-5)


def test_a_list_shorter_than_the_beams_want_has_room_for_them(load, tmp_path):
    write(FOLDER, tmp_path / "short", made_up((EOS,), {4: (9,)}, VOCABULARY))
    bundle = Bundle.open(tmp_path / "short")
    engines = Seq2SeqEngines(bundle, SessionConfig(threads=1), capacity=Capacity(slots=8))
    found = run(engines, [[4, EOS], [5, EOS]], {"num_beams": 4})
    assert set(found[0][0].token_ids) <= {9, EOS} and found[1][0].token_ids == (EOS,)
    assert run(engines, [[4, EOS]], {})[0][0].token_ids[0] in {9, EOS}
    engines.close()


HOSTILE = {
    "no id": lambda numbers: np.where(numbers == 108, VOCABULARY, numbers),
    "below 0": lambda numbers: np.where(numbers == 108, -1, numbers),
    "a start behind the next": lambda numbers: np.r_[numbers[:12], 10**6, numbers[13:]],
    "not from 0": lambda numbers: np.r_[numbers[:10], 1, numbers[11:]],
    "cut": lambda numbers: numbers[:20],
    "one too many": lambda numbers: np.r_[numbers, 5],
    "nothing": lambda numbers: numbers[:0],
}


def damaged(folders, tmp_path, change, **manifest):
    """Return the bundle with another map, or another manifest, that nothing else notices."""
    made = write(folders["none"], tmp_path / "bad", made_up(ALWAYS, LISTS, VOCABULARY))
    path = made.path / "shortlist.bin"
    change(np.fromfile(path, "<i4")).astype("<i4").tofile(path)
    text = (made.path / MANIFEST).read_text()
    for name, value in manifest.items():
        text = text.replace(f'"{name}": {getattr(shortlist_of(made), name)}', f'"{name}": {value}')
    text = text.replace(
        f'"bytes": {made.manifest.files["shortlist.bin"].bytes}',
        f'"bytes": {path.stat().st_size}',
    )
    (made.path / MANIFEST).write_text(text)
    return Bundle.open(made.path, verify=False)


def shortlist_of(bundle):
    return bundle.manifest.generation.seq2seq.shortlist


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_map_that_is_none_is_refused(folders, tmp_path, change):
    bundle = damaged(folders, tmp_path, change)
    with pytest.raises(BundleError, match=r"shortlist\.bin"):
        Seq2SeqEngines(bundle, SessionConfig(threads=1), capacity=Capacity(slots=2))


@pytest.mark.parametrize(
    "stated", [{"always": 0}, {"always": 10**9}, {"always": -1}, {"tokens": 10**9}, {"tokens": -1}]
)
def test_sizes_that_the_map_has_not_are_refused(folders, tmp_path, stated):
    bundle = damaged(folders, tmp_path, lambda numbers: numbers, **stated)
    with pytest.raises(BundleError, match="sizes that the manifest says"):
        Seq2SeqEngines(bundle, SessionConfig(threads=1), capacity=Capacity(slots=2))


def test_a_changed_map_and_one_that_is_not_listed_are_no_bundle(folders, tmp_path):
    made = write(FOLDER, tmp_path / "one", made_up(ALWAYS, LISTS, VOCABULARY))
    path = made.path / "shortlist.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BundleError, match="sha256 differs"):
        Bundle.open(made.path)
    manifest = made.path / MANIFEST
    manifest.write_text(manifest.read_text().replace('"file": "shortlist.bin"', '"file": "x.bin"'))
    with pytest.raises(BundleError, match=r"uses x\.bin"):
        Bundle.open(made.path, verify=False)
