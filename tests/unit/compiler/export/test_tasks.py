"""Which task a checkpoint is for, and what its labels and scores mean there."""

import json

import pytest

from lmonnx.bundle.manifest import Activation, Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.heads import detect_task, read_head
from lmonnx.errors import UnsupportedError
from tests import tiny

pytestmark = pytest.mark.compiler

ENTAILS = {"0": "contradiction", "1": "neutral", "2": "Entailment"}


def opened(folder, **changes):
    """Return a BERT checkpoint whose config.json has other fields."""
    source = tiny.write_bert(folder / "source")
    stored = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(stored | changes))
    return open_checkpoint(str(source))


# Which task it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_type", "name", "task"),
    [
        ("bert", "BertForSequenceClassification", Task.TEXT_CLASSIFICATION),
        ("bert", "BertForTokenClassification", Task.TOKEN_CLASSIFICATION),
        ("deberta-v2", "DebertaV2ForQuestionAnswering", Task.QUESTION_ANSWERING),
        ("modernbert", "ModernBertForMaskedLM", Task.FILL_MASK),
        ("bert", "BertModel", Task.FEATURE_EXTRACTION),
        ("xlm-roberta", "XLMRobertaModel", Task.FEATURE_EXTRACTION),
        ("deberta-v2", "DebertaV2Model", Task.FEATURE_EXTRACTION),
        ("nomic_bert", "NomicBertModel", Task.FEATURE_EXTRACTION),
    ],
)
def test_a_class_states_its_task(tmp_path, model_type, name, task):
    checkpoint = opened(tmp_path, model_type=model_type, architectures=[name])
    assert detect_task(checkpoint, None) is task
    assert detect_task(checkpoint, "text-ranking") is Task.TEXT_RANKING


@pytest.mark.parametrize("name", ["BertForMaskedLM", "BertForPreTraining", "BertModel"])
def test_a_sentence_transformers_folder_is_for_features(tmp_path, name):
    checkpoint = opened(tmp_path, architectures=[name])
    (checkpoint.path / "modules.json").write_text("[]")
    assert detect_task(checkpoint, None) is Task.FEATURE_EXTRACTION
    assert detect_task(checkpoint, "fill-mask") is Task.FILL_MASK


@pytest.mark.parametrize(
    "name", ["ElectraForPreTraining", "BertLMHeadModel", "BertForNextSentencePrediction", "Model"]
)
def test_another_class_is_refused_with_the_tasks_to_choose_from(tmp_path, name):
    checkpoint = opened(tmp_path, architectures=[name])
    with pytest.raises(UnsupportedError, match=f"{name}, .*fill-mask.*--task chooses one"):
        detect_task(checkpoint, None)


# What the scores mean --------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Task.FILL_MASK, Task.FEATURE_EXTRACTION, Task.QUESTION_ANSWERING])
def test_a_task_without_labels_has_no_head(tmp_path, task):
    assert read_head(opened(tmp_path), task) is None


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification", "x"])
def test_tokens_have_one_label_of_several(tmp_path, problem):
    head = read_head(
        opened(tmp_path, architectures=["BertForTokenClassification"], problem_type=problem),
        Task.TOKEN_CLASSIFICATION,
    )
    assert head.activation is Activation.SOFTMAX and len(head.labels) == 2


def test_zero_shot_needs_a_label_that_entails(tmp_path):
    head = read_head(opened(tmp_path, id2label=ENTAILS), Task.ZERO_SHOT_CLASSIFICATION)
    assert head.labels == tuple(ENTAILS.values()) and head.activation is Activation.SOFTMAX
    plain = opened(tmp_path / "b", id2label={"0": "no", "1": "not entailed"})
    with pytest.raises(UnsupportedError, match="none of which starts with 'entail'"):
        read_head(plain, Task.ZERO_SHOT_CLASSIFICATION)


IDENTITY, SIGMOID = (
    f"torch.nn.modules.{name}" for name in ("linear.Identity", "activation.Sigmoid")
)
OLD = "sbert_ce_default_activation_function"


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({}, Activation.SIGMOID),
        ({"problem_type": "regression"}, Activation.SIGMOID),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, Activation.NONE),
        ({"sentence_transformers": {"activation_fn": SIGMOID}, OLD: IDENTITY}, Activation.SIGMOID),
        ({"sentence_transformers": {"version": "5"}, OLD: IDENTITY}, Activation.NONE),
        ({OLD: "torch.nn.Identity"}, Activation.NONE),
        ({OLD: None}, Activation.SIGMOID),
    ],
)
def test_a_ranker_scores_as_a_cross_encoder(tmp_path, changes, activation):
    checkpoint = opened(tmp_path, num_labels=1, **changes)
    assert read_head(checkpoint, Task.TEXT_RANKING).activation is activation


@pytest.mark.parametrize(
    ("task", "changes", "said"),
    [
        (Task.TEXT_RANKING, {"num_labels": 2}, "names 2 labels, text-ranking needs one"),
        (Task.TEXT_RANKING, {"num_labels": 1, OLD: "torch.nn.Tanh"}, "must end in one of Sigmoid"),
        (Task.QUESTION_ANSWERING, {"num_labels": 3}, "names 3 labels, question-answering needs"),
        (Task.QUESTION_ANSWERING, {"id2label": {"0": "a"}}, "names 1 labels"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(tmp_path, task, changes, said):
    checkpoint = opened(tmp_path, **changes)
    with pytest.raises(UnsupportedError, match=said):
        export(checkpoint, tmp_path / "bundle", task=task, verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


# What sentence-transformers 5.7 writes of a CrossEncoder ------------------------------------------


@pytest.mark.parametrize(
    ("stated", "activation"),
    [
        ("torch.nn.modules.linear.Identity", Activation.NONE),
        ("torch.nn.modules.activation.Sigmoid", Activation.SIGMOID),
        (None, Activation.SIGMOID),
    ],
)
def test_a_cross_encoder_states_its_task_and_activation_in_a_file(tmp_path, stated, activation):
    checkpoint = opened(tmp_path, id2label={"0": "LABEL_0"})
    (checkpoint.path / "modules.json").write_text("[]")
    settings = {"model_type": "CrossEncoder", "activation_fn": stated}
    (checkpoint.path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    assert detect_task(checkpoint, None) is Task.TEXT_RANKING
    assert read_head(checkpoint, Task.TEXT_RANKING).activation is activation


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("BertForSequenceClassification", Task.TOKEN_CLASSIFICATION),
        ("ModernBertForTokenClassification", Task.TEXT_CLASSIFICATION),
    ],
)
def test_a_head_of_the_same_name_for_another_task_is_refused(tmp_path, name, task):
    checkpoint = opened(tmp_path, architectures=[name])
    with pytest.raises(UnsupportedError, match=f"whose head was not trained for {task}"):
        read_head(checkpoint, task)
