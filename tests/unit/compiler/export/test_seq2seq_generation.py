"""How an encoder-decoder generates: its task, its tokens, its settings and its prefixes."""

import pytest

from lmonnx.bundle.manifest import CacheSpec, Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.seq2seq import generation_settings, seq2seq_generation
from lmonnx.errors import StageError
from tests import tiny
from tests.tiny_seq2seq import CONTEXT, VOCABULARY, write_marian, write_t5

pytestmark = pytest.mark.compiler

WRITERS = {"marian": write_marian, "t5": write_t5}


def exported(folder, family="marian", **changes):
    source = WRITERS[family](folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


def test_a_family_has_its_task_and_may_be_asked_for_the_others(tmp_path):
    source = open_checkpoint(str(write_marian(tmp_path / "source")))
    assert export(source, tmp_path / "a", verify=False).manifest.task is Task.TRANSLATION
    asked = export(source, tmp_path / "b", task="summarization", verify=False)
    assert asked.manifest.task is Task.SUMMARIZATION
    assert exported(tmp_path / "t5", "t5").manifest.task is Task.TEXT_TO_TEXT


def test_generation_says_how_long_with_what_and_from_where(tmp_path):
    generation = exported(tmp_path).manifest.generation
    assert (generation.context, generation.vocabulary) == (CONTEXT, VOCABULARY)
    assert (generation.stop_ids, generation.seq2seq.start_id) == ((2,), 1)
    assert generation.defaults == {"forced_eos_token_id": 2}


@pytest.mark.parametrize(
    ("stored", "changes", "wanted"),
    [
        ({"num_beams": 4}, {"num_beams": 2}, {"num_beams": 4}),
        # transformers follows config.json where it was changed after the other file was made of it.
        ({"num_beams": 4, "_from_model_config": True}, {"num_beams": 2}, {"num_beams": 2}),
        ({"num_beams": 4, "_from_model_config": True}, {"num_beams": None}, {"num_beams": 4}),
        (None, {"num_beams": 2, "max_length": 9}, {"num_beams": 2, "max_length": 9}),
    ],
)
def test_settings_are_those_that_generate_follows(tmp_path, stored, changes, wanted):
    ids = {"decoder_start_token_id": 1, "eos_token_id": 2}
    changes = {"forced_eos_token_id": 0, **changes}  # that of the class
    files = {} if stored is None else {"generation_config.json": {**ids, **stored}}
    found = exported(tmp_path, files=files, **changes).manifest.generation.defaults
    found.pop("forced_eos_token_id", None)
    assert found == wanted


def test_a_setting_that_may_change_answers_goes_into_the_bundle(tmp_path):
    stated = {
        "num_return_sequences": 2, "dola_layers": "low", "constraints": [], "token_healing": True,
        "max_time": 3.0, "prompt_lookup_num_tokens": 3, "assistant_early_exit": 1,
        "remove_invalid_values": True,
    }  # fmt: skip
    ids = {"decoder_start_token_id": 1, "eos_token_id": 2, "use_cache": False}
    files = {"generation_config.json": {**ids, **stated}}
    assert exported(tmp_path, files=files).manifest.generation.defaults == stated


BLENDERBOT = {"encoder_no_repeat_ngram_size": 3, "forced_eos_token_id": 2}  # those of the class


@pytest.mark.parametrize(
    ("config", "stored", "wanted"),
    [
        (BLENDERBOT, {"num_beams": 5}, {"num_beams": 5}),
        (BLENDERBOT, {"encoder_no_repeat_ngram_size": None}, {}),
        ({}, {"num_beams": 5}, {"num_beams": 5}),
        ({"encoder_no_repeat_ngram_size": None}, {"num_beams": 5}, {"num_beams": 5}),
        ({"encoder_no_repeat_ngram_size": 0}, {"num_beams": 5}, {"forced_eos_token_id": 2}),
        ({"output_scores": True}, {"num_beams": 5}, BLENDERBOT),
        ({}, None, BLENDERBOT),
        ({"encoder_no_repeat_ngram_size": None}, None, {"forced_eos_token_id": 2}),
    ],
)
def test_a_setting_of_the_class_is_no_change_of_config_json(tmp_path, config, stored, wanted):
    tiny.write_json(tmp_path / "config.json", {"model_type": "blenderbot", **config})
    if stored is not None:
        made = {"_from_model_config": True, **stored}
        tiny.write_json(tmp_path / "generation_config.json", made)
    found = generation_settings(open_checkpoint(str(tmp_path)))
    names = ("encoder_no_repeat_ngram_size", "forced_eos_token_id", "num_beams")
    assert {name: found[name] for name in names if found.get(name)} == wanted


@pytest.mark.parametrize(("family", "wanted"), [("bart", 0), ("mbart", None)])
def test_a_forced_beginning_has_an_older_name_in_some_classes(tmp_path, family, wanted):
    config = {"model_type": family, "force_bos_token_to_be_generated": True}
    tiny.write_json(tmp_path / "config.json", config)
    found = generation_settings(open_checkpoint(str(tmp_path)))
    assert found.get("forced_bos_token_id") == wanted


def test_languages_beyond_the_model_are_refused(tmp_path):
    tiny.write_json(tmp_path / "config.json", {"model_type": "m2m_100"})
    tiny.write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "M2M100Tokenizer"})
    tiny.write_json(tmp_path / "vocab.json", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3})
    checkpoint, cache = open_checkpoint(str(tmp_path)), CacheSpec(1, 1, 1)
    made = seq2seq_generation(checkpoint, context=9, vocabulary=104, cache=cache)
    assert max(made.seq2seq.languages.ids.values()) == 103
    with pytest.raises(StageError, match=r"language zu is the token 103, but the model has 103 "):
        seq2seq_generation(checkpoint, context=9, vocabulary=103, cache=cache)


def test_what_the_class_states_holds_where_config_json_is_silent(tmp_path):
    source = write_t5(tmp_path / "source", model_type="mt5", tie_word_embeddings=True)
    (source / "config.json").write_text(
        (source / "config.json").read_text().replace("decoder_start_token_id", "_unused")
    )
    bundle = export(open_checkpoint(str(source)), tmp_path / "b", task="translation", verify=False)
    assert bundle.manifest.generation.seq2seq.start_id == 0
    config = {"bos_token_id": 4, "decoder_start_token_id": None}
    assert exported(tmp_path / "m", **config).manifest.generation.seq2seq.start_id == 4


def test_a_decoder_that_starts_with_nothing_is_refused(tmp_path):
    with pytest.raises(StageError, match="decoder_start_token_id"):
        exported(tmp_path, decoder_start_token_id=None)


def test_prefixes_are_those_of_the_tasks(tmp_path):
    tasks = {"summarization": {"prefix": "summarize: ", "num_beams": 4}, "other": {"num_beams": 2}}
    bundle = exported(tmp_path, "t5", task_specific_params=tasks)
    assert bundle.manifest.generation.seq2seq.prefixes == {"summarization": "summarize: "}
    with pytest.raises(StageError, match="task_specific_params"):
        exported(tmp_path / "bad", "t5", task_specific_params={"summarization": 3})


def test_settings_of_tasks_are_kept_and_no_others(tmp_path):
    own = {"num_beams": 4, "max_length": 200, "stop_strings": None}
    tasks = {
        "summarization": {"prefix": "s: ", "temperature": 0.5, "vocab_size": 9, **own},
        "translation_a_to_b": {"prefix": "b: ", "decoder_start_token_id": 1, "eos_token_id": 2},
        "translation_a_to_c": {"decoder_start_token_id": 3, "eos_token_id": [1, 5]},
        "question-answering": {"num_beams": 2},
    }
    bundle = exported(tmp_path, "t5", task_specific_params=tasks)
    assert bundle.manifest.generation.seq2seq.task_settings == {
        "summarization": {"temperature": 0.5, **own},
        "translation_a_to_c": {"decoder_start_token_id": 3, "eos_token_id": [1, 5]},
    }
    bare = exported(tmp_path / "bare", "t5", task_specific_params={"summarization": {}})
    assert bare.manifest.generation.seq2seq.task_settings is None


def test_export_warns_of_what_run_will_refuse(tmp_path):
    files = {"generation_config.json": {"decoder_start_token_id": 1, "guidance_scale": 2.0}}
    step = exported(tmp_path, files=files).manifest.history[-1]
    assert "asks for guidance_scale = 2.0, which is not built" in step.metrics["warning"]
    tasks = {"summarization": {"penalty_alpha": 0.6}}
    step = exported(tmp_path / "t5", "t5", task_specific_params=tasks).manifest.history[-1]
    assert "penalty_alpha = 0.6 for summarization" in step.metrics["warning"]
    assert exported(tmp_path / "none").manifest.history[-1].metrics is None
