"""What a bundle and its checkpoint are asked when they are compared."""

import pytest

from lmonnx.compiler import verify
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.measure.decisions import answer_all
from lmonnx.runtime.tokenizer import Long
from tests import tiny

pytestmark = pytest.mark.compiler


def asked(folder, monkeypatch, **changes):
    """Return the texts of a comparison, of which the bundle itself is the reference."""
    checkpoint = open_checkpoint(str(tiny.write_bert(folder / "checkpoint", **changes)))
    made = export(checkpoint, folder / "bundle", verify=False)
    seen = []

    def answers(_, texts, *, model):
        seen.extend(texts)
        return answer_all(model, texts, long=Long.TRUNCATE)

    monkeypatch.setattr(verify, "reference_answers", answers)
    assert verify.verify_against(made, checkpoint).max_difference == 0
    return seen


def test_a_classifier_that_reads_pairs_is_asked_a_quarter_of_them(tmp_path, monkeypatch):
    texts = asked(tmp_path, monkeypatch)
    assert sum(isinstance(text, tuple) for text in texts) == 25 and len(texts) == 100


@pytest.mark.parametrize("changes", [{"type_vocab_size": 1}, {"task": "token-classification"}])
def test_what_does_not_read_pairs_is_asked_none(tmp_path, monkeypatch, changes):
    assert all(isinstance(text, str) for text in asked(tmp_path, monkeypatch, **changes))
