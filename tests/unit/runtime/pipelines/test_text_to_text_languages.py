"""Language codes and prefixes: where their tokens stand, and what is refused."""

import pytest

from lmonnx.bundle.manifest import Languages, Place, Seq2Seq, Task
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.pipelines.languages import Frame, codes, make_frame

IDS = {"de": 260, "en": 261, "zh": 262}
T5 = {
    "summarization": "summarize: ",
    "translation_en_to_de": "translate English to German: ",
    "translation_en_to_fr": "translate English to French: ",
}
NLLB = {
    f"{name}_Latn": i
    for i, name in enumerate("deu eng fra dan nld nob swe ita spa por ron".split())
}
NLLB |= {"ell_Grek": 90, "rus_Cyrl": 91, "deu_Goth": 92}


def languages(places=(Place.BEFORE, Place.FORCED), **defaults):
    return Seq2Seq(2, Languages(IDS, *places, **defaults))


@pytest.mark.parametrize(
    ("places", "frame"),
    [
        ((Place.BEFORE, Place.FORCED), Frame(2, before=(260,), forced=(261,))),  # NLLB, M2M100
        ((Place.AFTER, Place.START), Frame(261, after=(260,))),  # mBART
        ((Place.BEFORE, Place.BEFORE), Frame(2, before=(260, 261))),
    ],
)
def test_tokens_of_languages_stand_where_the_manifest_says(places, frame):
    assert make_frame(languages(places), source_lang="de", target_lang="en") == frame
    given = languages(places, source="de", target="en")
    assert make_frame(given) == frame


def test_a_side_without_tokens_takes_no_code():
    marian = languages((Place.NONE, Place.BEFORE))
    assert make_frame(marian, target_lang="zh") == Frame(2, before=(262,))
    with pytest.raises(InputError, match="source_lang is 'de', but the model takes none"):
        make_frame(marian, source_lang="de", target_lang="zh")


@pytest.mark.parametrize(
    ("seq2seq", "asked", "message"),
    [
        (
            languages(),
            {"source_lang": "de"},
            "into several languages; give target_lang.*de, en, zh",
        ),
        (languages(), {"target_lang": "de"}, "from several languages; give source_lang"),
        (languages(source="de", target="en"), {"target_lang": "xx"}, "'xx' is no language of this"),
        (languages(source="de", target="en"), {"source_lang": 7}, "source_lang 7"),
        (
            Seq2Seq(2),
            {"target_lang": "de"},
            "states no languages and no prefixes.*--prefix.*leave it out",
        ),
        (Seq2Seq(2, prefixes=T5), {}, "en to de, en to fr; give source_lang and target_lang"),
        (Seq2Seq(2, prefixes=T5), {"target_lang": "ro"}, "'ro'.*one of de, fr"),
        (Seq2Seq(2, prefixes=T5), {"prefix": "x: ", "target_lang": "de"}, "its prefix says"),
    ],
)
def test_a_code_that_is_wrong_or_missing_is_refused_with_those_there_are(seq2seq, asked, message):
    with pytest.raises(InputError, match=message):
        make_frame(seq2seq, **asked, task="translation")


def test_of_many_languages_those_are_named_that_look_alike():
    many = Seq2Seq(2, Languages(NLLB, Place.BEFORE, Place.FORCED, source="eng_Latn"))
    with pytest.raises(InputError, match=r"one of deu_\w+, .*14 in all; `lmonnx inspect`"):
        make_frame(many, target_lang="de")
    with pytest.raises(InputError, match="one of deu_Latn"):
        make_frame(many, target_lang="deu_latn")


def test_prefixes_are_chosen_by_task_and_languages():
    t5 = Seq2Seq(0, prefixes=T5)
    asked = {"target_lang": "fr", "task": "translation"}
    assert make_frame(t5, **asked).prefix == T5["translation_en_to_fr"]
    assert make_frame(t5, **asked, source_lang="en") == make_frame(t5, **asked)
    assert make_frame(t5, task="summarization").prefix == "summarize: "
    assert make_frame(t5).prefix == ""
    assert make_frame(t5, prefix="ask: ", task="translation").prefix == "ask: "
    with pytest.raises(InputError, match="it does not translate"):
        make_frame(t5, target_lang="de", task="summarization")


def test_codes_are_those_of_tokens_else_of_prefixes():
    assert codes(languages()) == ("de", "en", "zh")
    assert codes(Seq2Seq(0, prefixes=T5)) == ("en", "de", "fr")
    assert codes(Seq2Seq(0)) == ()


def test_a_decoder_starts_with_something():
    with pytest.raises(BundleError, match="starts with"):
        make_frame(Seq2Seq(None))


def test_a_translator_is_told_its_languages(load):
    model = load(languages=Languages(IDS, Place.BEFORE, Place.FORCED, source="de"))
    assert model.languages == ("de", "en", "zh")
    (found,) = model("one", target_lang="en")
    assert found.token_ids[0] == 261 and found.prompt_tokens == 5
    assert model("one", target_lang="zh") != [found]
    assert model("one", source_lang="zh", target_lang="en") != [found]
    with pytest.raises(InputError, match="into several"):
        model("one")


def test_a_forced_first_token_of_the_checkpoint_gives_way_to_the_language(load):
    ours = Languages(IDS, Place.BEFORE, Place.FORCED, source="de", target="en")
    defaults = {"forced_bos_token_id": 261, "max_length": 9, "num_beams": 1}
    model = load(languages=ours, defaults=defaults)
    assert model.defaults.forced_ids == ()
    assert model("one", target_lang="zh")[0].token_ids[0] == 262
    assert model("one")[0].token_ids[0] == 261
    assert load(defaults=defaults)("one")[0].token_ids[0] == 261


def test_a_summary_is_asked_for_by_its_prefix(load):
    model = load(task=Task.SUMMARIZATION, prefixes=T5)
    plain = load(task=Task.TEXT_TO_TEXT, prefixes=T5)
    assert model("one") == plain("summarize: one") == plain("one", prefix="summarize: ")


def test_a_pair_of_languages_may_have_settings_and_no_prefix():
    settings = {"translation_en_to_ro": {"num_beams": 2}}
    t5 = Seq2Seq(0, prefixes=T5, task_settings=settings)
    assert make_frame(t5, target_lang="ro", task="translation").prefix == ""
    assert codes(t5) == ("en", "de", "fr", "ro")
    with pytest.raises(InputError, match="takes none"):
        make_frame(Seq2Seq(0, task_settings=settings), target_lang="ro", task="translation")
