"""transformers' generation settings → SamplingParams."""

from dataclasses import replace

import pytest

from lmonnx.bundle.manifest import CacheSpec, Generation
from lmonnx.errors import BundleError, UnsupportedError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.pipelines.default_params import default_params


def params(context=512, **defaults):
    generation = Generation(context, 100, CacheSpec(1, 1, 8), (2,), defaults=defaults or None)
    return default_params(generation, context=context)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, {"max_new_tokens": 256, "num_beams": 4}),
        ({"max_length": 20}, {"max_new_tokens": 256, "num_beams": 4}),
        ({"max_length": 128, "min_length": 10}, {"max_new_tokens": 127, "min_new_tokens": 9,
                                                 "num_beams": 4}),
        ({"max_length": 128, "max_new_tokens": 9}, {"max_new_tokens": 9, "num_beams": 4}),
        ({"max_length": 10_000}, {"max_new_tokens": 511, "num_beams": 4}),
        ({"num_beams": 6, "length_penalty": 0.6, "early_stopping": True, "forced_eos_token_id": [2],
          "bad_words_ids": [[7], [8, 9]], "no_repeat_ngram_size": 3, "forced_bos_token_id": 0},
         {"max_new_tokens": 256, "num_beams": 6, "length_penalty": 0.6, "early_stopping": True,
          "forced_eos_token_id": 2, "bad_words_ids": ((7,), (8, 9)), "no_repeat_ngram_size": 3,
          "forced_ids": (0,)}),
        ({"renormalize_logits": True, "num_beams": 6},
         {"max_new_tokens": 256, "num_beams": 6, "renormalize_logits": True}),
        ({"do_sample": True, "top_p": 0.9}, {"max_new_tokens": 256, "temperature": 1.0, "top_k": 50,
                                             "top_p": 0.9}),
        ({"do_sample": False, "top_k": 50, "temperature": 0.7, "num_beams": 1},
         {"max_new_tokens": 256}),
        ({"length_penalty": None, "early_stopping": None}, {"max_new_tokens": 256, "num_beams": 4}),
        ({"num_return_sequences": 3}, {"max_new_tokens": 256, "num_beams": 4, "n": 3}),
        ({"num_return_sequences": None}, {"max_new_tokens": 256, "num_beams": 4}),
        ({"num_return_sequences": 9, "do_sample": True},
         {"max_new_tokens": 256, "temperature": 1.0, "top_k": 50, "n": 9}),
    ],
)  # fmt: skip
def test_settings_mean_what_they_mean_in_transformers_pipelines(stated, expected):
    assert params(**stated) == SamplingParams(**expected)


@pytest.mark.parametrize(
    "wrong",
    [{"num_beams": 1000}, {"max_length": "long"}, {"bad_words_ids": 7}, {"num_beams": 0},
     {"num_return_sequences": 3, "num_beams": 2}, {"num_return_sequences": 5},
     {"num_return_sequences": 2, "num_beams": 1}, {"num_return_sequences": 0},
     {"max_length": 1}, {"max_new_tokens": 0}],
    ids=str,
)  # fmt: skip
def test_a_setting_that_cannot_be_is_the_bundles_fault(wrong):
    with pytest.raises(BundleError, match=r"generation_config\.json") as found:
        params(**wrong)
    named = "where n is num_return_sequences" in str(found.value)
    assert named == ("num_return_sequences" in wrong)


def test_a_least_length_above_the_most_is_the_most():
    """So is what transformers answers, with a warning."""
    given = params(max_length=9, min_length=30)
    assert (given.max_new_tokens, given.min_new_tokens) == (8, 8)
    given = params(max_new_tokens=4, min_new_tokens=6)
    assert (given.max_new_tokens, given.min_new_tokens) == (4, 4)


def test_a_setting_that_is_not_built_is_said_unless_params_are_given(load):
    model = load(defaults={"encoder_no_repeat_ngram_size": 3, "max_length": 9})
    with pytest.raises(UnsupportedError, match="encoder_no_repeat_ngram_size = 3"):
        model("x")
    with pytest.raises(UnsupportedError, match="not built"):
        model.stream("x")
    assert model("x", model.built_defaults)[0].completion_tokens <= 8


def test_defaults_say_what_is_not_built_and_name_what_does_without(load):
    model = load(defaults={"encoder_no_repeat_ngram_size": 3, "num_beams": 2})
    with pytest.raises(UnsupportedError, match=r"size = 3, .*made of .* `built_defaults`"):
        replace(model.defaults, num_beams=4)
    assert model("x", replace(model.built_defaults, num_beams=4))
    assert (built := load(defaults={"num_beams": 2})).defaults == built.built_defaults


def test_a_text_has_as_many_answers_as_the_checkpoint_says(load):
    model = load(defaults={"max_length": 9, "num_beams": 3, "num_return_sequences": 2})
    found = model(["one", "two"])
    assert found == model(["one", "two"], SamplingParams(max_new_tokens=8, num_beams=3, n=2))
    assert list(model.answers(["one", "two"])) == [found[:2], found[2:]]
    (whole,) = model("one", replace(model.defaults, num_beams=1, n=1))
    assert "".join(chunk.text for chunk in model.stream("one")) == whole.text
    drawn = load(defaults={"max_length": 9, "do_sample": True, "num_return_sequences": 3})
    assert len(drawn("one")) == 3


@pytest.mark.parametrize(
    "stated",
    [{"do_sample": True, "num_beams": 3}, {"penalty_alpha": 0.6}, {"guidance_scale": 2.0},
     {"stop_strings": ["."]}, {"begin_suppress_tokens": [9]}, {"num_beam_groups": 2},
     {"dola_layers": "low"}, {"constraints": [[5]]}, {"token_healing": True},
     {"prompt_lookup_num_tokens": 3}],
    ids=str,
)  # fmt: skip
def test_settings_that_are_not_built_have_their_name_said(load, stated):
    with pytest.raises(UnsupportedError, match=next(iter(stated))):
        load(defaults={"max_length": 9, **stated})("x")


@pytest.mark.parametrize(
    "stated",
    [{"token_healing": False, "dola_layers": None, "constraints": None},
     {"max_time": 0.0}, {"remove_invalid_values": True}, {"assistant_early_exit": 1}],
    ids=str,
)  # fmt: skip
def test_settings_that_no_answer_depends_on_are_let_be(load, stated):
    usual = {"max_length": 9, "num_beams": 2}
    assert load(defaults={**usual, **stated})("x") == load(defaults=usual)("x")
