"""How an encoder-decoder generates: its task, its tokens, its settings and its prefixes."""

import pytest

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.errors import StageError
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
