"""Freeze tests/golden/tiny-{mlm,nli,ranker}, and what transformers' pipelines answer with them.

Run from the repository's root, where torch, transformers and the export extra are installed:

    PYTHONPATH=. python tests/golden/make_pairs.py
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import tiny
from tests.golden.make import source, versions, write

HERE = Path(__file__).parent
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}
SETTINGS = {"model_max_length": 40}
NLI = {
    "id2label": {0: "contradiction", 1: "neutral", 2: "ENTAILMENT"},
    "label2id": {"contradiction": 0, "neutral": 1, "ENTAILMENT": 2},
}
RANKER = {"id2label": {0: "LABEL_0"}}

# The brackets of one text are its masks; what else differs from case to case is an option.
FILLS: list[tuple[str, dict[str, Any]]] = [
    ("the film is [MASK].", {}),
    ("[MASK]", {"top_k": 1}),
    ("[MASK] film [MASK]", {"top_k": 2}),
    ("[MASK][MASK] , good ! [MASK]", {"top_k": 2}),
    ("the film is [MASK].", {"targets": "good"}),
    ("the film is [MASK].", {"targets": ["good", "bad", "good"], "top_k": 9}),
    ("the film is [MASK].", {"targets": ["goodness", "xyz", "", " ", "É"]}),
    ("[MASK] film [MASK]", {"targets": ["bad", "[PAD]", "[MASK]", "##ing"], "top_k": 3}),
    ("not [PAD] [CLS] [UNK] \u4e2d\u6587 [MASK] [SEP]", {"top_k": 3}),
    ("\x00a\u200b [MASK] \ufffd\n\t don't e\u0301 \U0001f600 n ' t", {"top_k": 3}),
    ("İ \u0627 [MASK] 1.000,50 ?", {"top_k": 3}),
    ("[MASK] " + "the film " * 40, {"top_k": 2, "tokenizer_kwargs": {"truncation": True}}),
]
TEXTS = ("the film is good", " [MASK] \x00 e\u0301 \u4e2d\u6587 don't", "bad " * 60, "a")
LABELS = ["good", "bad film", "\u4e2d, \U0001f600", "", "good", "[SEP]"]
SHOTS: list[dict[str, Any]] = [
    {"candidate_labels": LABELS},
    {"candidate_labels": LABELS, "multi_label": True},
    {"candidate_labels": " good, bad film ,, not,"},
    {"candidate_labels": "good"},
    {"candidate_labels": ["good", "bad"], "hypothesis_template": "{}"},
    {"candidate_labels": ["good", "bad"], "hypothesis_template": "{{ {0} is {0} }}"},
    {"candidate_labels": ["good " * 20, "bad"], "multi_label": True},
]
DOCUMENTS = (
    "the film is good", "bad", "", " ", "\x00 \u4e2d\u6587 [SEP] a", "good " * 60,
    "a film, not bad", "e\u0301 \U0001f600 \u0627", "is it the film?", "bad",
)  # fmt: skip
QUERIES = ("the film", "is it good? " * 10)


def digits(score: float) -> float:
    return float(f"{score:.7g}")


def make_fills(folder: Path) -> None:
    """Freeze the fill-mask pipeline's answers: score, token, token_str, sequence."""
    fill = transformers.pipeline("fill-mask", str(folder), device="cpu")
    cases = []
    for text, options in FILLS:
        masks = fill(text, **options)
        masks = masks if isinstance(masks[0], list) else [masks]
        rows = [[[digits(f["score"]), *list(f.values())[1:]] for f in mask] for mask in masks]
        kept = {name: value for name, value in options.items() if name != "tokenizer_kwargs"}
        cases.append({"text": text, "options": kept, "masks": rows})
    write("tiny-mlm", {"source": source("tiny-mlm"), "versions": versions(), "cases": cases})


def make_shots(folder: Path) -> None:
    """Freeze the zero-shot pipeline's answers."""
    shoot = transformers.pipeline("zero-shot-classification", str(folder), device="cpu")
    cases = []
    for options in SHOTS:
        for text in TEXTS:
            answer = shoot(text, **options)
            scores = [digits(score) for score in answer["scores"]]
            cases.append(
                {"text": text, "options": options, "labels": answer["labels"], "scores": scores}
            )
    write("tiny-nli", {"source": source("tiny-nli"), "versions": versions(), "cases": cases})


def make_ranks(folder: Path) -> None:
    """Freeze sigmoid scores of query and document, as sentence-transformers' CrossEncoder has them.

    transformers' own pipeline reads an empty second text as none; in a list it is one.
    """
    read = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    cases = []
    for query in QUERIES:
        scores = []
        for document in DOCUMENTS:
            inputs = read([query], [document], truncation=True, return_tensors="pt")
            with torch.no_grad():
                scores.append(digits(model(**inputs).logits.sigmoid().item()))
        cases.append({"query": query, "documents": DOCUMENTS, "scores": scores})
    write("tiny-ranker", {"source": source("tiny-ranker"), "versions": versions(), "cases": cases})


GOLDENS = {
    "tiny-mlm": ("fill-mask", {}, make_fills),
    "tiny-nli": ("zero-shot-classification", NLI, make_shots),
    "tiny-ranker": ("text-ranking", RANKER, make_ranks),
}


def main() -> None:
    """Write checkpoints, bundles and answers."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        for name, (task, labels, freeze) in GOLDENS.items():
            checkpoint = Path(folder) / name
            tiny.write_bert(checkpoint, task=task, settings=SETTINGS, **SMALL, **labels)
            freeze(checkpoint)
            shutil.rmtree(HERE / name, ignore_errors=True)
            export(open_checkpoint(str(checkpoint)), HERE / name, task=task, verify=False)


if __name__ == "__main__":
    main()
