"""A classifier is compared with transformers on pairs too: what single texts do not show."""

import json
from dataclasses import replace

import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.verify import verify_against
from lmonnx.errors import StageError
from tests import tiny

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_pairs_answer_as_transformers(tmp_path, family):
    source = tiny.WRITERS[family](tmp_path / "source")
    made = export(open_checkpoint(str(source)), tmp_path / "made")
    (parity,) = made.manifest.history[-1].parity
    assert parity.texts == 100 and parity.relative < 1e-5


def test_a_wrong_type_of_the_second_text_is_found(tmp_path):
    """Before pairs were asked, this was at parity."""
    source = tiny.write_bert(tmp_path / "source")
    checkpoint = open_checkpoint(str(source))
    made = export(checkpoint, tmp_path / "made", verify=False)
    assert verify_against(made, checkpoint).relative < 1e-5
    text = made.manifest.text
    wrong = replace(text, source=replace(text.source, one_type=True))
    changed = Bundle(made.path, replace(made.manifest, text=wrong))
    assert verify_against(changed, checkpoint).relative > 1e-3


def test_a_tokenizer_that_transformers_own_model_refuses_is_named(tmp_path):
    source = tiny.WRITERS["distilbert"](tmp_path / "source")
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps(settings))
    with pytest.raises(StageError, match=r"transformers itself fails.*token_type_ids.*--no-verify"):
        export(open_checkpoint(str(source)), tmp_path / "made")
