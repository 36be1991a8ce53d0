"""task_specific_params: a pipeline of a task writes what transformers' pipeline of it writes."""

import json

import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.errors import UnsupportedError
from tests import tiny_pairs
from tests.tiny_text import write_json

pytestmark = [pytest.mark.parity, pytest.mark.shared, pytest.mark.usefixtures("quiet")]

TEXTS = (
    "A group of men are loading cotton onto a truck",
    "Ein Mann schläft in einem grünen Raum auf einem Sofa.",
    "film",
)
# As T5's own, but shorter.
TASKS = {
    "summarization": {
        "early_stopping": True, "length_penalty": 2.0, "max_length": 19, "min_length": 9,
        "no_repeat_ngram_size": 3, "num_beams": 4, "prefix": "summarize: ",
    },
    "translation_en_to_de": {
        "early_stopping": True, "max_length": 16, "num_beams": 4,
        "prefix": "translate English to German: ",
    },
    "translation_en_to_fr": {
        "max_length": 14, "num_beams": 2, "num_return_sequences": 2, "length_penalty": 0.4,
        "prefix": "translate English to French: ",
    },
    "translation_en_to_ro": {
        "max_length": 6, "min_length": 12, "num_beams": 4, "early_stopping": "never",
        "prefix": "translate English to Romanian: ",
    },
}  # fmt: skip
# Without a length of the model's own a task's counts for nothing: 256 tokens.
OWN = {"long": {"max_length": 30, "min_length": 3}, "none": {}, "new": {"max_new_tokens": 256}}
KEYS = {"summarization": "summary_token_ids", "translation": "translation_token_ids"}


@pytest.fixture(scope="module", params=OWN)
def folder(request, tmp_path_factory):
    """Give a checkpoint and the bundle of it."""
    made = tmp_path_factory.mktemp("tasks")
    tiny_pairs.write(made / "checkpoint", "t5", **OWN[request.param])
    config = json.loads((made / "checkpoint" / "config.json").read_text())
    write_json(made / "checkpoint" / "config.json", {**config, "task_specific_params": TASKS})
    export(open_checkpoint(str(made / "checkpoint")), made / "bundle", verify=False)
    return made


@pytest.mark.parametrize("name", TASKS)
def test_a_pipeline_of_a_task_has_their_tokens(folder, name):
    from transformers import AutoTokenizer, pipeline

    checkpoint = str(folder / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    theirs = pipeline(name, model=checkpoint, tokenizer=tokenizer, device="cpu")
    task, *pair = name.split("_")
    codes = {"source_lang": pair[0], "target_lang": pair[2]} if pair else {}
    with lmonnx.load(folder / "bundle", task=task, threads=1) as model:
        found = list(model.answers(TEXTS, **codes))
    for text, answers in zip(TEXTS, found, strict=True):
        wanted = theirs(text, return_tensors=True)
        rows = [each[KEYS[task]].tolist()[1:] for each in wanted]
        assert len(rows) == TASKS[name].get("num_return_sequences", 1)
        for answer, row in zip(answers, rows, strict=True):
            assert answer.token_ids == tuple(row)[: len(answer.token_ids)]
            assert set(row[len(answer.token_ids) :]) <= {tokenizer.pad_token_id}


def test_what_a_task_asks_for_and_is_not_built_is_refused_for_it_alone(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny_pairs.write(folder, "t5", max_length=9)
    config = json.loads((folder / "config.json").read_text())
    tasks = {**TASKS, "summarization": {"encoder_no_repeat_ngram_size": 2}}
    write_json(folder / "config.json", {**config, "task_specific_params": tasks})
    bundle = export(open_checkpoint(str(folder)), tmp_path / "bundle")
    assert "encoder_no_repeat_ngram_size = 2 for summarization" in str(
        bundle.manifest.history[-1].metrics
    )
    refused = pytest.raises(UnsupportedError, match="encoder_no_repeat_ngram_size = 2")
    with lmonnx.load(bundle.path, task="summarization", threads=1) as model, refused:
        model("film")
    with lmonnx.load(bundle.path, task="translation", threads=1) as model:
        assert model("film", target_lang="de")
