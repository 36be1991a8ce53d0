"""What a task is asked with plain sentences."""

from types import SimpleNamespace

import pytest

from lmonnx.bundle.manifest import Task
from lmonnx.errors import BundleError
from lmonnx.measure.sentences import fit, gate_sentences, parity_sentences

LONG = "word " * 30
PAIRED = (Task.QUESTION_ANSWERING, Task.TEXT_RANKING, Task.ZERO_SHOT_CLASSIFICATION)


def manifest(task, mask="[MASK]"):
    source = SimpleNamespace(mask_token=mask)
    return SimpleNamespace(task=task, text=SimpleNamespace(source=source))


def test_a_hundred_of_five_hundred_sentences_serve_parity():
    assert (len(gate_sentences()), len(parity_sentences())) == (500, 100)


@pytest.mark.parametrize("task", PAIRED)
def test_pairs_are_asked_of_a_task_of_pairs_and_pairs_stay(task):
    texts = [LONG, "a b", ("c", "d")]
    found = fit(texts, manifest(task))
    assert found[2] == ("c", "d") and all(isinstance(text, tuple) for text in found)
    assert all(len(part) <= 40 for part in (found[0][0 if task in PAIRED[:2] else 1],))


def test_a_question_is_the_beginning_of_one_text_about_the_next():
    found = fit([LONG, "a b"], manifest(Task.QUESTION_ANSWERING))
    assert found == [("word " * 7 + "word", "a b"), ("a b", LONG)]


def test_one_of_the_first_words_is_masked_unless_there_is_a_mask():
    texts = [LONG, "a b", "a [MASK]", ""]
    found = fit(texts, manifest(Task.FILL_MASK))
    assert found[0].startswith("[MASK] word") and found[1:] == ["a [MASK]", "a [MASK]", "[MASK]"]
    assert all(text.index("[MASK]") <= 40 for text in found)


def test_a_bundle_without_a_mask_cannot_be_asked():
    with pytest.raises(BundleError, match="names no mask_token"):
        fit(["a"], manifest(Task.FILL_MASK, mask=None))
