"""Text that is longer than the model reads: lines, sentences, windows, and what fits."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmonnx.bundle.manifest import Languages, Place, Task
from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.pipelines.languages import Frame
from lmonnx.runtime.pipelines.source_parts import Cutter

SHORT = SamplingParams(max_new_tokens=2)
SENTENCES = ("First, a short one. ", "Then comes another. ", "The third is the last! ")


def cutter(tiny, frame=None, limit=96):
    return Cutter(tiny._source, frame or Frame(2), limit=limit)


def test_lines_are_translated_each_and_stay_lines(tiny):
    text = "one\n\ntwo three\r\nThe third.\n"
    lines = [tiny(line)[0].text for line in ("one", "two three", "The third.")]
    (found,) = tiny(text)
    assert found.text == f"{lines[0]}\n\n{lines[1]}\r\n{lines[2]}\n"
    assert found.completion_tokens == len(found.token_ids) == 24 + 12 + 2 or found.token_ids


def test_a_long_line_is_translated_a_sentence_at_a_time(tiny):
    text = "".join(SENTENCES)
    each = [tiny(sentence.strip())[0] for sentence in SENTENCES]
    (found,) = tiny(text)
    assert found.text == " ".join(answer.text for answer in each)
    assert found.token_ids == sum((answer.token_ids for answer in each), ())
    assert found.prompt_tokens == sum(answer.prompt_tokens for answer in each)
    total = sum(a.score * a.completion_tokens for a in each)
    assert found.score == pytest.approx(total / found.completion_tokens)


def test_a_line_that_an_answer_can_be_as_long_as_is_read_whole(tiny):
    text = "One. Two. Three. Four."
    assert tiny(text)[0].prompt_tokens == len(text) + 1
    assert tiny(text, split="none") == tiny(text)
    parts = [tiny(part)[0].text for part in text.split()]
    assert tiny(text, split="sentences")[0].text == " ".join(parts)


def test_the_i_th_best_of_sentences_are_joined(tiny):
    params = replace(tiny.defaults, num_beams=3, n=3)
    found = tiny("".join(SENTENCES), params)
    each = [tiny(sentence.strip(), params) for sentence in SENTENCES]
    assert [a.text for a in found] == [
        " ".join(answers[i].text for answers in each) for i in range(3)
    ]


def test_twenty_thousand_characters_are_answered_whatever_they_are(tiny):
    for text in (
        "x" * 20_000,
        "word " * 4_000,
        "。" * 5_000,
        "語" * 5_000,
        "!" * 20_000,
        "é" * 9_999,
    ):
        (found,) = tiny(text, SHORT)
        assert found.prompt_tokens >= len(text.replace(" ", ""))
        assert found.completion_tokens >= 2 * (len(text.encode()) // 96)


texts = st.lists(
    st.sampled_from(["word ", "x" * 40, "One. ", "語。", "\n", "\n\n", " ", "Two! ", "é, "]),
    max_size=30,
).map("".join)


@settings(max_examples=60)
@given(texts, st.integers(12, 96))
def test_parts_fit_and_lose_nothing_but_space(tiny, text, limit):
    cut = cutter(tiny, limit=limit)
    for parts in (cut.by_sentence([text], 0, longest=24), cut.by_window([text], 0)):
        assert "".join("".join(part.text.split()) for part in parts) == "".join(text.split())
        assert all(
            len(part.ids) <= limit and bool(part.ids) == bool(part.text.strip()) for part in parts
        )


@given(st.lists(texts, max_size=5))
def test_every_text_has_an_answer_and_every_line_its_line(tiny, several):
    found = list(tiny.answers(several, SHORT))
    assert len(found) == len(several)
    for (answer,), text in zip(found, several, strict=True):
        assert answer.text.count("\n") == text.count("\n")


def test_what_is_truncated_is_what_fits_and_the_end_token_stays(tiny):
    frame = Frame(2, before=(5,), after=(6,))
    (part,) = cutter(tiny, frame, 10).whole(["abcdefghij"], 0, truncate=True)
    ids = tiny._source.within("abcdefghij")
    assert part.ids == (5, *ids[:7], 2, 6)
    assert tiny("x" * 200, split="truncate")[0].prompt_tokens == 96


def test_a_frame_and_a_prefix_are_around_every_part(tiny):
    frame = Frame(2, prefix="to: ", before=(5,), after=(6,))
    prefix = tuple(tiny._source.within("to: "))
    for part in cutter(tiny, frame, 30).by_sentence(["".join(SENTENCES)], 0, longest=0):
        assert part.ids[:5] == (5, *prefix) and part.ids[-2:] == (2, 6)


def test_a_long_text_is_summarized_in_windows_of_about_equal_size(load):
    model = load(task=Task.SUMMARIZATION)
    text = "".join(SENTENCES) * 3
    parts = cutter(model).by_window([text], 0)
    assert len(parts) == 3 and len({len(part.ids) for part in parts}) == 1
    found = model(text)[0]
    assert found.text == " ".join(model("".join(SENTENCES).strip())[0].text for _ in range(3))
    assert model("a\nb")[0].prompt_tokens == 4
    with pytest.raises(InputError, match="auto, none, truncate"):
        model("x", split="sentences")


def test_a_task_that_is_neither_refuses_what_is_too_long(load):
    model = load(task=Task.TEXT_TO_TEXT)
    with pytest.raises(InputError, match="split='auto'"):
        model(["x", "y" * 200])
    with pytest.raises(InputError, match="text 1 has 201"):
        list(model.answers(["x", "y" * 200]))
    assert model("y" * 200, split="auto")[0].prompt_tokens > 200


def test_a_text_that_is_too_long_keeps_no_other_from_its_answer(load):
    model = load(task=Task.TEXT_TO_TEXT)
    found = list(model.attempts(["x", "y" * 200, "", "z"]))
    assert [found[0], found[2], found[3]] == [model(text) for text in ("x", "", "z")]
    assert (found[1].row, str(found[1])[:19]) == (1, "text 1 has 201 toke")
    answers = model.answers(["x", "y" * 200])
    assert next(answers) == model("x")
    with pytest.raises(InputError, match="text 1 has 201"):
        next(answers)
    with pytest.raises(InputError, match="text 0 has 201"):
        model.stream("y" * 200)


def test_chinese_answers_are_joined_without_a_space(load):
    model = load(languages=Languages({"zh": 262}, Place.NONE, Place.FORCED, target="zh"))
    forced = tuple(model._target.within("語"))
    params = replace(model.defaults, forced_ids=forced, max_new_tokens=4)
    assert model("One. Two.", params, split="sentences")[0].text == "語語"
