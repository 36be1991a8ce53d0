"""The settings that a checkpoint states for a task: whose they are, and who is refused."""

import pytest

import lmonnx
from lmonnx import SamplingParams
from lmonnx.bundle.manifest import CacheSpec, Generation, Languages, Place, Seq2Seq, Task
from lmonnx.errors import UnsupportedError
from lmonnx.runtime.pipelines.languages import task_names

PREFIXES = {
    "summarization": "s: ",
    "translation_a_to_b": "b: ",
    "translation_a_to_c": "c: ",
}
SETTINGS = {
    "summarization": {"num_beams": 3, "max_length": 7, "no_repeat_ngram_size": 2},
    "translation_a_to_b": {"num_beams": 3, "max_length": 6, "num_return_sequences": 2},
    "translation_a_to_c": {"num_beams": 2, "max_length": 6, "encoder_no_repeat_ngram_size": 3},
}
GIVEN = {"prefixes": PREFIXES, "task_settings": SETTINGS, "defaults": {"max_length": 9}}
TO_B = {"source_lang": "a", "target_lang": "b"}


def names(seq2seq, *asked):
    return task_names(Generation(9, 9, CacheSpec(1, 1, 8), (1,), seq2seq=seq2seq), *asked)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ((None,), ()),
        (("summarization",), ("summarization",)),
        (("translation",), ("translation_a_to_b", "translation_a_to_c")),
        (("translation", None, "c"), ("translation_a_to_c",)),
        (("translation", "a", "b"), ("translation_a_to_b",)),
        (("translation", "a_AA", "b_BB"), ("translation_a_to_b", "translation_a_to_c")),
    ],
)
def test_a_call_asks_for_its_task_or_its_pair_of_languages(asked, wanted):
    assert names(Seq2Seq(0, prefixes=PREFIXES, task_settings=SETTINGS), *asked) == wanted
    assert names(Seq2Seq(0, task_settings=SETTINGS), *asked) == wanted


def test_a_model_without_pairs_has_the_settings_of_translation():
    assert names(Seq2Seq(0), "translation", "a", "b") == ("translation",)
    assert names(None, "translation") == ()


def test_a_task_has_its_own_settings_and_the_bare_one_none(load):
    summarizer = load(task=Task.SUMMARIZATION, **GIVEN)
    wanted = SamplingParams(max_new_tokens=6, num_beams=3, no_repeat_ngram_size=2)
    assert summarizer.defaults == summarizer.built_defaults == wanted
    assert summarizer("one two") == summarizer("one two", wanted)
    bare = load(task=Task.TEXT_TO_TEXT, **GIVEN)
    assert bare.defaults == SamplingParams(max_new_tokens=8, num_beams=4)


def test_a_translation_has_the_settings_of_its_pair(load):
    model = load(task=Task.TRANSLATION, **GIVEN)
    shared = SamplingParams(max_new_tokens=5, num_beams=4)
    own = SamplingParams(max_new_tokens=5, num_beams=3, n=2)
    assert model.defaults == model.built_defaults == shared
    assert model.defaults_for("a", "b") == model.defaults_for(target_lang="b") == own
    found = model("one two", **TO_B)
    assert found == model("one two", own, **TO_B) and len(found) == 2
    assert model("one", SamplingParams(), **TO_B)[0].completion_tokens <= 5
    assert "".join(chunk.text for chunk in model.stream("one two", **TO_B))


def test_what_a_pair_asks_for_and_is_not_built_is_refused_for_that_pair(load):
    model = load(task=Task.TRANSLATION, **GIVEN)
    assert model("one", **TO_B)
    with pytest.raises(UnsupportedError, match=r"encoder_no_repeat_ngram_size = 3, .*not built"):
        model("one", target_lang="c")
    with pytest.raises(UnsupportedError, match="encoder_no_repeat_ngram_size = 3"):
        model.stream("one", target_lang="c")
    assert model("one", model.built_defaults, target_lang="c")


def test_a_model_of_languages_has_what_its_checkpoint_states_of_translation(load):
    languages = Languages({"en_XX": 260, "ro_RO": 261}, Place.BEFORE, Place.FORCED)
    stated = {"translation_en_to_ro": {"num_beams": 5}}
    model = load(task=Task.TRANSLATION, languages=languages, task_settings=stated)
    assert model.defaults.num_beams == 5
    assert model.defaults_for("en_XX", "ro_RO").num_beams == 5


def test_a_manifest_without_them_is_read_and_written_as_it_was(load):
    model = load(task=Task.TRANSLATION)
    assert model.generation.seq2seq.task_settings is None
    assert "task_settings" not in (model.bundle.path / "lmonnx.json").read_text()
    kept = load(task=Task.TRANSLATION, **GIVEN)
    again = lmonnx.Bundle.open(kept.bundle.path).manifest.generation.seq2seq
    assert again.task_settings == SETTINGS
