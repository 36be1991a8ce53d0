"""A bundle in optimum's ORTModel classes, and optimum's folders here."""

import numpy as np
import pytest

import lmonnx
from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from tests import tiny
from tests.tiny_heads import ENDINGS

pytestmark = pytest.mark.interop
optimum = pytest.importorskip("optimum.onnxruntime")

CLASSES = {
    Task.TEXT_CLASSIFICATION: "ORTModelForSequenceClassification",
    Task.TOKEN_CLASSIFICATION: "ORTModelForTokenClassification",
    Task.QUESTION_ANSWERING: "ORTModelForQuestionAnswering",
    Task.FILL_MASK: "ORTModelForMaskedLM",
    Task.FEATURE_EXTRACTION: "ORTModelForFeatureExtraction",
}
TEXTS = ["the film is good", "bad", "a good film that is not bad at all"]


@pytest.fixture(params=CLASSES)
def task(request):
    return request.param


@pytest.fixture
def source(task, tmp_path):
    name = f"Bert{ENDINGS[task]}"
    return tiny.write_bert(tmp_path / "source", architectures=[name])


def outputs(model, folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="np")
    return {
        name: np.asarray(array)
        for name, array in model(**inputs).items()
        if name in {"logits", "start_logits", "end_logits", "last_hidden_state"}
    }


def test_optimum_loads_the_bundle_and_answers_as_torch(task, source, tmp_path):
    import torch
    import transformers

    made = export(open_checkpoint(str(source)), tmp_path / "b", task=task, verify=False).path
    theirs = outputs(getattr(optimum, CLASSES[task]).from_pretrained(made), made)
    auto = getattr(transformers, CLASSES[task].replace("ORTModelFor", "AutoModelFor"), None)
    model = (auto or transformers.AutoModel).from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)
    kept = inputs["attention_mask"].numpy().astype(bool)
    assert theirs
    for name, array in theirs.items():
        wanted = expected[name].numpy()
        rows = kept if wanted.ndim > 1 and wanted.shape[:2] == kept.shape else ...
        np.testing.assert_allclose(array[rows], wanted[rows], atol=1e-5)


def test_what_optimum_saved_is_adopted(task, source, tmp_path):
    import transformers

    model = getattr(optimum, CLASSES[task]).from_pretrained(source, export=True)
    model.save_pretrained(tmp_path / "saved")
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "saved")
    adopted = export(
        open_checkpoint(str(tmp_path / "saved")),
        tmp_path / "adopted",
        task=task,
        engine=Engine.ADOPT,
        verify=False,
    )
    native = export(open_checkpoint(str(source)), tmp_path / "native", task=task, verify=False)
    texts = [f"{text} [MASK]" for text in TEXTS]
    asked = [(text, text) for text in TEXTS] if task is Task.QUESTION_ANSWERING else texts
    one, two = (list(lmonnx.load(b.path).raw(asked)) for b in (adopted, native))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
