"""Train tests/golden/sentencepiece/*.model, and freeze the ids that transformers gives with them.

Run from the repository's root, where transformers and sentencepiece are installed:

    PYTHONPATH=. python tests/golden/make_sentencepiece.py
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sentencepiece
import transformers

from tests import texts, tiny
from tests.golden.make import write

HERE = Path(__file__).parent
FOLDER = HERE / "sentencepiece"
# Few enough that the compiled rules take one kilobyte; nmt_nfkc, the default, takes 240.
RULES = {"ﬁ": "fi", "\u212b": "Å", "½": "1⁄2", "…": "...", "\u00a0": " ", "\t": " ", "\u200b": ""}
CORPUS = (
    "the film is not good , it is bad and boring", "a great deal of fun , and i loved it at first",
    "Le film n'est pas bon : c'est long, très long.", "Ünïcödé Éé ÉCOLE ß", "don't can't won't",
    "1.000,50 3e-7 9,9 and 10, 20, 30", "中文电影很好 日本語", "فيلم رائع جدا", "סרט טוב", "😀 👍",
    "https://example.com/a?b=c user@example.com", "e\u0301 combining", "The END [of] (it) - \"so\"",
)  # fmt: skip
# The layout of XLM-R's and CamemBERT's models, and that of DeBERTa's.
ANGLES = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
BRACKETS = {
    "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]",
    "eos_piece": "[SEP]", "unk_piece": "[UNK]",
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "unigram": {"model_type": "unigram", "vocab_size": 470, "byte_fallback": True, **ANGLES},
    "bpe": {"model_type": "bpe", "vocab_size": 300, **BRACKETS},
}
# Name of the case → architecture, model, and what differs in tokenizer_config.json.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "xlm-roberta": ("xlm-roberta", "unigram", {}),
    "xlm-roberta, bpe": ("xlm-roberta", "bpe", {}),
    "camembert": ("camembert", "unigram", {}),
    "albert": ("albert", "unigram", {}),
    "albert, cased": ("albert", "unigram", {"do_lower_case": False, "keep_accents": True}),
    "deberta-v2": ("deberta-v2", "unigram", {}),
    "deberta-v2, bpe": ("deberta-v2", "bpe", {"do_lower_case": True, "split_by_punct": True}),
}
FILES = {
    "xlm-roberta": "sentencepiece.bpe.model",
    "camembert": "sentencepiece.bpe.model",
    "albert": "spiece.model",
    "deberta-v2": "spm.model",
}


def train(**options: Any) -> bytes:
    """Return a model trained on CORPUS; the same options give the same bytes."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5),
        model_writer=made,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **{"user_defined_symbols": ["<user>", "😀"], **options},
    )
    return made.getvalue()


def write_text_side(
    folder: Path, architecture: str, model: bytes, settings: Mapping[str, Any]
) -> Path:
    """Write a checkpoint's text side: config.json, tokenizer_config.json, and the model."""
    folder.mkdir(parents=True)
    tiny.write_json(folder / "config.json", {"model_type": architecture})
    tiny.write_json(folder / "tokenizer_config.json", dict(settings))
    (folder / FILES[architecture]).write_bytes(model)
    return folder


def main() -> None:
    """Train the models, then freeze the ids."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        rules = "rules.tsv"  # by its bare name, which the model keeps
        (Path(folder) / rules).write_text(
            "".join(
                "\t".join(" ".join(f"{ord(c):X}" for c in side) for side in rule) + "\n"
                for rule in RULES.items()
            )
        )
        with contextlib.chdir(folder):
            models = {
                name: train(normalization_rule_tsv=rules, **options)
                for name, options in MODELS.items()
            }
        items = [text for text in texts.NASTY if len(text) <= 60] + ["9,9 ``a'' <user>b <0x41>"]
        cases = []
        for case, (architecture, model, settings) in CASES.items():
            path = write_text_side(Path(folder) / case, architecture, models[model], settings)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, use_fast=True)
            ids = [tokenizer(text)["input_ids"] for text in items]
            stated = {"architecture": architecture, "model": model, "settings": settings}
            cases.append({"case": case, **stated, "ids": ids})
    for name, data in models.items():
        (FOLDER / f"{name}.model").write_bytes(data)
    versions = {name: version(name) for name in ("transformers", "tokenizers", "sentencepiece")}
    write("sentencepiece", {"versions": versions, "texts": items, "cases": cases})
    print(json.dumps({name: len(data) for name, data in models.items()}))


if __name__ == "__main__":
    main()
