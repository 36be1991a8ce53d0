"""A checkpoint's generation settings: a task's over the model's, and what is not built."""

import pytest

from lmonnx.bundle.manifest import CacheSpec, Generation, Seq2Seq
from lmonnx.bundle.settings import settings_of, unmet, warning_of


def generation(defaults=None, **tasks):
    seq2seq = Seq2Seq(0, task_settings=tasks or None)
    return Generation(64, 9, CacheSpec(1, 1, 8), (1,), defaults=defaults, seq2seq=seq2seq)


@pytest.mark.parametrize(
    ("own", "task", "wanted"),
    [
        ({"num_beams": 6, "length_penalty": 0.5}, {"num_beams": 2},
         {"num_beams": 2, "length_penalty": 0.5}),
        ({"num_beams": 6}, {"num_beams": None}, {}),
        # As in transformers' pipelines a task's own max_length is outranked by their 256 tokens.
        ({}, {"max_length": 200, "min_length": 30}, {"min_length": 30}),
        ({"max_length": 20}, {"max_length": 200}, {"max_length": 20}),
        ({"max_length": 50}, {"max_length": 200}, {"max_length": 200}),
        ({"max_length": 50}, {"max_length": 20}, {"max_length": 50}),
        ({}, {"max_new_tokens": None, "max_length": 9}, {"max_length": 9}),
        ({"max_length": 50}, {"max_new_tokens": 7}, {"max_length": 50, "max_new_tokens": 7}),
    ],
)  # fmt: skip
def test_a_task_has_its_settings_over_the_models(own, task, wanted):
    made = generation(own, summarization=task)
    assert settings_of(made, ("summarization",)) == wanted
    plain = {name: value for name, value in own.items() if value is not None}
    assert settings_of(made) == settings_of(made, ("other",)) == plain


def test_of_several_tasks_that_counts_which_all_state_alike():
    one, other = {"num_beams": 2, "early_stopping": True}, {"num_beams": 3, "early_stopping": True}
    made = generation({"num_beams": 4}, one=one, other=other)
    assert settings_of(made, ("one", "other")) == {"num_beams": 4, "early_stopping": True}
    assert settings_of(made, ("one", "none")) == {"num_beams": 4}
    old = Generation(64, 9, CacheSpec(1, 1, 8), (1,), seq2seq=Seq2Seq(0))
    assert settings_of(old, ("one",)) == {}


@pytest.mark.parametrize(
    ("own", "task", "wanted"),
    [
        ({}, {"encoder_no_repeat_ngram_size": 3}, "encoder_no_repeat_ngram_size = 3"),
        ({"stop_strings": ["."]}, {"stop_strings": None}, None),
        ({"num_beams": 3}, {"do_sample": True}, "do_sample = True of num_beams = 3"),
        ({}, {"decoder_start_token_id": 7}, "decoder_start_token_id = 7"),
    ],
)
def test_what_a_task_asks_for_is_refused_for_that_task(own, task, wanted):
    made = generation(own, summarization=task)
    assert unmet(made, tasks=("summarization",)) == wanted
    assert unmet(made) == unmet(generation(own))


def test_a_warning_names_what_run_will_refuse_and_for_which_task():
    assert (
        warning_of(None) is warning_of(generation({"num_beams": 2}, one={"num_beams": 3})) is None
    )
    assert "asks for guidance_scale = 2, which" in warning_of(generation({"guidance_scale": 2}))
    made = generation(None, one={"guidance_scale": 2}, two={}, three={"penalty_alpha": 0.5})
    said = "asks for guidance_scale = 2 for one; penalty_alpha = 0.5 for three, which is not built"
    assert said in warning_of(made)
