"""Freeze transformers' entities and answers, and the two tiny bundles that must give them.

Run from the repository's root, where torch, transformers and the export extra are installed:

    PYTHONPATH=. python tests/golden/make_spans.py
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import tiny

HERE = Path(__file__).parent
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
STRATEGIES = ("none", "simple", "first", "average", "max")
TEXTS = (
    "The film is not good, filming bad!",
    "don't x7 É e\u0301 the good",
    "👩‍👩‍👧 good 😀😀 film",
    "فيلم good سרט",
    "a\x00b \u200bthe\u00a0film",
    "[MASK] the [SEP] film",
    " \n",
    "zzz",
)
LONG = "the good film filming, is not x7 bad good e\u0301 don't " * 5
QUESTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("what film?", "The film is not good, filming bad!", {}),
    ("what film?", "The film is not good, filming bad!", {"top_k": 3}),
    ("what film?", "The film is not good, filming bad!", {"top_k": 2, "align_to_words": False}),
    ("good 😀", "👩‍👩‍👧 good 😀😀 film e\u0301 فيلم", {"max_answer_len": 2, "top_k": 2}),
    ("x7", "zzz the bad [SEP] film", {"handle_impossible_answer": True, "top_k": 2}),
    ("is it good?", LONG, {"top_k": 3}),
    ("is it good?", LONG, {"max_seq_len": 32, "doc_stride": 8, "top_k": 3}),
    ("is it good?", LONG, {"max_answer_len": 1, "align_to_words": False}),
    ("is it good?", LONG, {"handle_impossible_answer": True, "doc_stride": 0}),
)


def write(name: str, fields: dict[str, Any]) -> None:
    """Write a golden file, a line an answer."""
    lines = []
    for key, value in {"versions": versions(), **fields}.items():
        spelled = json.dumps(value)
        if isinstance(value, list):
            spelled = "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {spelled}")
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}


def rounded(answer: Any) -> Any:
    """Return an answer as lists of values, its scores to six digits."""
    if isinstance(answer, list):
        return [rounded(item) for item in answer]
    return [round(float(v), 6) if name == "score" else v for name, v in answer.items()]


def make(folder: Path, name: str, task: str, kind: Any, **changes: Any) -> Any:
    """Write the bundle of a random model; return transformers' pipeline of it."""
    source = tiny.write_bert(folder / name)
    config = transformers.AutoConfig.from_pretrained(
        source, initializer_range=0.5, architectures=None, **SIZES, **changes
    )
    torch.manual_seed(1)
    kind.from_config(config).save_pretrained(source)
    shutil.rmtree(HERE / name, ignore_errors=True)
    export(open_checkpoint(str(source)), HERE / name, task=task, verify=False)
    return transformers.pipeline(task, model=str(source), device="cpu", dtype=torch.float32)


def make_ner(folder: Path) -> None:
    labels = dict(enumerate(LABELS))
    names = {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    kind = transformers.AutoModelForTokenClassification
    label = make(folder, "tiny-ner", "token-classification", kind, **names)
    cases = [(text, {"aggregation_strategy": s}) for s in STRATEGIES for text in TEXTS]
    cases += [(LONG, {"aggregation_strategy": s, "stride": 9}) for s in STRATEGIES[1:]]
    cases += [(TEXTS[0], {"aggregation_strategy": "first", "ignore_labels": []})]
    write(
        "tiny-ner",
        {"answers": [[text, options, rounded(label(text, **options))] for text, options in cases]},
    )


def make_qa(folder: Path) -> None:
    kind = transformers.AutoModelForQuestionAnswering
    answer = make(folder, "tiny-qa", "question-answering", kind)
    rows = []
    for question, context, options in QUESTIONS:
        found = answer(question=question, context=context, **options)
        rows.append([question, context, options, rounded(found)])
    write("tiny-qa", {"answers": rows})


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_ner(Path(folder))
        make_qa(Path(folder))


if __name__ == "__main__":
    main()
