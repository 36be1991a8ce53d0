"""Freeze transformers' answers: tests/golden/*.json, and the tiny bundle of the lean tests.

Run from the repository's root, where torch, transformers and the export extra are installed:

    PYTHONPATH=. python tests/golden/make.py [tiny] [more] [tokenizers] [bundle] [sentiment-mini]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import texts, tiny, tiny_more

HERE = Path(__file__).parent
SENTIMENT = HERE.parents[1] / "models" / "sentiment-mini"
BATCH = 16
FEWER = {"electra", "albert", "mpnet"}  # every third text of the hundred

# Name of the case → family, and what differs in tokenizer_config.json.
TOKENIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "bert, cased": ("bert", {"do_lower_case": False}),
    "bert, accents kept": ("bert", {"strip_accents": False}),
    "bert, cased, accents stripped": ("bert", {"do_lower_case": False, "strip_accents": True}),
    "bert, Chinese not split": ("bert", {"tokenize_chinese_chars": False}),
    "distilbert": ("distilbert", {}),
    "electra, cased": ("electra", {"do_lower_case": False}),
    "mpnet": ("mpnet", {}),
    "mpnet, accents kept": ("mpnet", {"strip_accents": False}),
    "roberta": ("roberta", {}),
    "roberta, prefix space": ("roberta", {"add_prefix_space": True}),
}


def versions() -> dict[str, str]:
    """Return the versions that the answers depend on."""
    return {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}


def write(name: str, fields: dict[str, Any]) -> None:
    """Write a golden file, a line a text."""
    lines = []
    for key, value in fields.items():
        spelled = json.dumps(value)
        if isinstance(value, list):
            spelled = "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
        lines.append(f" {json.dumps(key)}: {spelled}")
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def answers(folder: Path, items: Sequence[str | list[str]]) -> list[list[float]]:
    """Return transformers' logits, in padded batches, to seven digits."""
    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    # A batch of the fast tokenizer is all texts or all pairs.
    found: dict[int, list[float]] = {}
    for kind in (str, list):
        places = [place for place, item in enumerate(items) if isinstance(item, kind)]
        for start in range(0, len(places), BATCH):
            chunk = places[start : start + BATCH]
            batch = [items[i] if kind is str else tuple(items[i]) for i in chunk]
            inputs = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                logits = model(**inputs).logits
            for place, row in zip(chunk, logits.tolist(), strict=True):
                found[place] = [float(f"{value:.7g}") for value in row]
    return [found[place] for place in range(len(items))]


def source(name: str) -> str:
    return f"transformers {transformers.__version__} on {name}"


def make_tiny(folder: Path) -> None:
    """Freeze the answers of the checkpoints of tests/tiny.py."""
    for family, writer in tiny.WRITERS.items():
        items = texts.mixed_texts()[:: 3 if family in FEWER else 1]
        checkpoint = {"family": family, "seed": 0, "changes": {}}
        logits = answers(writer(folder / f"tiny-{family}"), items)
        stated = {"source": source(f"tiny-{family}"), "versions": versions()}
        write(
            f"tiny-{family}", stated | {"checkpoint": checkpoint, "texts": items, "logits": logits}
        )


def make_more(folder: Path) -> None:
    """Freeze the answers of the checkpoints of tests/tiny_more.py to a quarter of the texts."""
    items = texts.mixed_texts()[1::4]
    for name, (family, changes) in tiny_more.GOLDENS.items():
        checkpoint = {"family": family, "seed": 0, "changes": changes}
        logits = answers(tiny_more.WRITERS[family](folder / name, **changes), items)
        stated = {"source": source(name), "versions": versions()}
        write(name, stated | {"checkpoint": checkpoint, "texts": items, "logits": logits})


def make_tokenizers(folder: Path) -> None:
    """Freeze the ids that fast tokenizers built from a vocabulary give to nasty text."""
    items = [text for text in texts.NASTY if len(text) <= 60]
    cases = []
    for case, (family, settings) in TOKENIZERS.items():
        path = tiny.WRITERS[family](folder / f"{case}-text", tokenizer="vocab", settings=settings)
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True)
        ids = [tokenizer(text)["input_ids"] for text in items]
        cases.append({"case": case, "family": family, "settings": settings, "ids": ids})
    write("tokenizers", {"versions": versions(), "texts": items, "cases": cases})


def make_bundle(folder: Path) -> None:
    """Export the tiny BERT into tests/golden/tiny-bert."""
    checkpoint = tiny.write_bert(folder / "tiny-bert")
    export(open_checkpoint(str(checkpoint)), HERE / "tiny-bert", verify=False, force=True)


def make_sentiment_mini(_: Path) -> None:
    """Freeze the answers of models/sentiment-mini to 100 of its sentences, short to long."""
    lines = (SENTIMENT / "data" / "vader.tsv").read_text(encoding="utf-8").splitlines()
    sentences = sorted({line.rsplit("\t", 1)[0] for line in lines}, key=lambda s: (len(s), s))
    items = [sentences[i * (len(sentences) - 1) // 99] for i in range(100)]
    random.Random(0).shuffle(items)
    stated = {"source": source("models/sentiment-mini"), "versions": versions()}
    write("sentiment-mini", stated | {"texts": items, "logits": answers(SENTIMENT, items)})


GOLDENS = {
    "tiny": make_tiny,
    "more": make_more,
    "tokenizers": make_tokenizers,
    "bundle": make_bundle,
    "sentiment-mini": make_sentiment_mini,
}


def main(names: list[str]) -> None:
    """Make the named goldens, all of them where none is named."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        for name in names or GOLDENS:
            GOLDENS[name](Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
