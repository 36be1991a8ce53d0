"""Types that a tokenizer gives to pairs, and models that have no embeddings for them."""

import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.errors import StageError
from tests import tiny

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("task", ["question-answering", "text-ranking"])
def test_a_pair_whose_types_the_model_lacks_is_refused_with_the_way_out(tmp_path, task):
    """transformers fails on every pair: IndexError, index out of range in self."""
    asked = {"task": task} if task == "question-answering" else {"num_labels": 1}
    asked |= {"type_vocab_size": 1}
    source = open_checkpoint(str(tiny.write_bert(tmp_path / "source", **asked)))
    with pytest.raises(StageError, match=r"type 1, .*type_vocab_size.*model_input_names") as found:
        export(source, tmp_path / "out", task=task, verify=False)
    assert "\n" not in str(found.value)
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    told = open_checkpoint(str(tiny.write_bert(tmp_path / "told", settings=names, **asked)))
    assert export(told, tmp_path / "told-out", task=task, verify=False).manifest.graphs


def test_single_texts_need_no_types_of_pairs(tmp_path):
    source = open_checkpoint(str(tiny.write_bert(tmp_path / "source", type_vocab_size=1)))
    made = export(source, tmp_path / "out", verify=False)
    assert lmonnx.load(made.path)("a film").label
