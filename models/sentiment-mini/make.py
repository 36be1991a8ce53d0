"""Make sentiment-mini: a BERT sentiment checkpoint, its vocabulary cut to what SST-2 train uses.

    python models/sentiment-mini/make.py                   # model, data and scores
    python models/sentiment-mini/make.py scores            # only score what is there
    python models/sentiment-mini/make.py data --gate-sentences gate.txt

Needs torch and transformers; the inputs are under $LMONNX_SHARED (default: ../shared).
"""

import argparse
import datetime
import json
import os
import platform
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

SHARED = Path(os.environ.get("LMONNX_SHARED", Path(__file__).resolve().parents[3] / "shared"))
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Latin, Greek, Cyrillic, Armenian, Hebrew; then punctuation, currency, arrows, signs.
CHARACTER_RANGES = (range(0x0600), range(0x2000, 0x2C00))
VADER = {"amazon": "amazonReviewSnippets", "tweets": "tweets"}
SLICE_ROWS, GATE_ROWS, HELD_OUT_ROWS = 500, 250, 600  # of each VADER source
LEAST_RATING = 0.5  # of 4; nearer to zero the sign is not a judgement
UNPLAIN = re.compile(r'["@]|&#?\w+;|https?:|www\.')
MAX_LENGTH, BATCH_SIZE, LEARNING_RATE = 128, 32, 3e-5  # tokens, sentences, a step


@dataclass(frozen=True, slots=True)
class Example:
    """A sentence and its label: 1 positive, 0 negative."""

    text: str
    label: int


@dataclass(frozen=True, slots=True)
class VaderSplit:
    """Disjoint rows of one VADER source, no sentence twice."""

    labelled: list[Example]
    gate: list[str]
    held_out: list[Example]


def read_tsv(path: Path) -> list[Example]:
    """Read `sentence TAB label` rows."""
    rows = (line.rsplit("\t", 1) for line in path.read_text("utf-8").splitlines())
    return [Example(text, int(label)) for text, label in rows]


def is_kept_character(piece: str) -> bool:
    """True of a single character, or ## and one, in CHARACTER_RANGES."""
    character = piece.removeprefix("##") or piece
    return len(character) == 1 and any(ord(character) in kept for kept in CHARACTER_RANGES)


def cut_vocabulary(tokenizer: Any, texts: Sequence[str], size: int) -> dict[str, int]:
    """Choose `size` pieces, piece → old id in the old order, so [PAD] stays 0.

    Special tokens and single characters first, then the commonest pieces of `texts`; of pieces
    used no more than twice the lower old id, which is the commoner one in general English.
    """
    old_ids: dict[str, int] = tokenizer.get_vocab()
    counts = Counter(piece for text in texts for piece in tokenizer.tokenize(text))
    chosen = {*SPECIAL_TOKENS, *filter(is_kept_character, old_ids)}
    ranked = sorted(counts, key=lambda piece: (-max(counts[piece], 2), old_ids[piece]))
    chosen.update([piece for piece in ranked if piece not in chosen][: size - len(chosen)])
    return {piece: old_ids[piece] for piece in sorted(chosen, key=old_ids.__getitem__)}


def write_tokenizer(source: Path, folder: Path, pieces: Sequence[str]) -> None:
    """Write the source's tokenizer with `pieces` as its vocabulary, a piece's id its place."""
    new_ids = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
    shutil.copyfile(source / "special_tokens_map.json", folder / "special_tokens_map.json")
    tokenizer = json.loads((source / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"] = new_ids
    tokenizer["truncation"] = tokenizer["padding"] = None
    for token in tokenizer["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [new_ids[content] for content in token["tokens"]]
    write_json(folder / "tokenizer.json", tokenizer)
    config = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    for key in ("max_length", "pad_to_multiple_of", "stride", "truncation_strategy"):
        config.pop(key, None)
    config["added_tokens_decoder"] = {
        str(new_ids[token["content"]]): token for token in config["added_tokens_decoder"].values()
    }
    write_json(folder / "tokenizer_config.json", config)


def cut_embeddings(model: Any, old_ids: Sequence[int]) -> None:
    """Keep the rows `old_ids` of the word embeddings, in that order: (V, E)."""
    weight = model.get_input_embeddings().weight.detach()[list(old_ids)].clone()
    embeddings = torch.nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=0)
    model.set_input_embeddings(embeddings)
    model.config.vocab_size = len(old_ids)


def encode(tokenizer: Any, texts: Sequence[str]) -> Any:
    """Encode to the longest of the batch: input_ids and attention_mask (B, S) int64."""
    return tokenizer(
        list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )


@torch.no_grad()
def predict(model: Any, tokenizer: Any, texts: Sequence[str], batch_size: int = 64) -> torch.Tensor:
    """Give the logits of `texts` in their order: (B, C) float32."""
    model.eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    logits = torch.empty(len(texts), model.config.num_labels)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        logits[rows] = model(**encode(tokenizer, [texts[row] for row in rows])).logits
    return logits


def shuffled_batches(lengths: Sequence[int], size: int, draw: random.Random) -> list[list[int]]:
    """Give every row once, in random batches of rows of like length (little padding)."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row] * draw.uniform(0.8, 1.25))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    draw.shuffle(batches)
    return batches


def refit(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    targets: torch.Tensor,
    *,
    epochs: int,
    seed: int,
) -> None:
    """Tune all weights on half the label's cross-entropy, half the teacher's (Hinton et al., 2015).

    `targets` are the teacher's probabilities (B, C), made with the uncut vocabulary.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    lengths = [len(example.text) for example in examples]  # characters
    labels = torch.tensor([example.label for example in examples])  # (B,)
    steps = epochs * -(-len(examples) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for _ in range(epochs):
        for rows in shuffled_batches(lengths, BATCH_SIZE, draw):
            inputs = encode(tokenizer, [examples[row].text for row in rows])
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(**inputs).logits.float()  # (B, C)
            loss = (cross_entropy(logits, labels[rows]) + cross_entropy(logits, targets[rows])) / 2
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


def is_plain(text: str) -> bool:
    """True of two words or more that a plain TSV can hold and that name no account or address."""
    return text.isprintable() and " " in text and not UNPLAIN.search(text)


def split_vader(path: Path, seed: int) -> VaderSplit:
    """Split one VADER file: the labelled slice, sentences of all lengths, and rows to score on."""
    ratings: dict[str, float] = {}
    for line in path.read_text("utf-8").splitlines():
        _, rating, text = line.split("\t")
        if is_plain(text.strip()):
            ratings.setdefault(text.strip(), float(rating))
    texts = list(ratings)
    random.Random(seed).shuffle(texts)
    clear = [text for text in texts if abs(ratings[text]) >= LEAST_RATING]
    examples = [Example(text, int(ratings[text] > 0)) for text in clear]
    used = set(clear[: SLICE_ROWS + HELD_OUT_ROWS])
    spare = sorted((text for text in texts if text not in used), key=lambda text: (len(text), text))
    gate = [spare[row * (len(spare) - 1) // (GATE_ROWS - 1)] for row in range(GATE_ROWS)]
    return VaderSplit(examples[:SLICE_ROWS], gate, examples[SLICE_ROWS:][:HELD_OUT_ROWS])


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON in UTF-8."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def load(folder: Path) -> tuple[Any, Any]:
    """Load a checkpoint folder as (model, tokenizer), for float32 arithmetic."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder, use_fast=True)


def make_model(options: argparse.Namespace) -> None:
    """Cut, refit and write the checkpoint; every file is replaced whole."""
    train = read_tsv(options.data / "sst2" / "train.tsv")
    texts = [example.text for example in train]
    model, tokenizer = load(options.source)
    targets = predict(model, tokenizer, texts).softmax(-1)  # (B, C)
    vocabulary = cut_vocabulary(tokenizer, texts, options.vocab_size)
    with TemporaryDirectory(dir=options.out) as name:
        folder = Path(name)
        write_tokenizer(options.source, folder, list(vocabulary))
        cut_embeddings(model, list(vocabulary.values()))
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
        refit(model, tokenizer, train, targets, epochs=options.epochs, seed=options.seed)
        model.half().save_pretrained(folder)
        for path in folder.iterdir():
            path.chmod(0o644)
            path.replace(options.out / path.name)


def make_data(options: argparse.Namespace) -> None:
    """Write data/vader.tsv with its licence and, if asked for, the gate sentences."""
    folder = options.out / "data"
    folder.mkdir(exist_ok=True)
    splits = vader_splits(options)
    lines = [f"{e.text}\t{e.label}\n" for split in splits.values() for e in split.labelled]
    (folder / "vader.tsv").write_text("".join(lines), "utf-8")
    shutil.copyfile(options.data / "vader" / "LICENSE.txt", folder / "LICENSE")
    if options.gate_sentences:
        sentences = [text for split in splits.values() for text in split.gate]
        options.gate_sentences.write_text("".join(f"{text}\n" for text in sentences), "utf-8")


def vader_splits(options: argparse.Namespace) -> dict[str, VaderSplit]:
    """Split both VADER sources, by name."""
    vader = options.data / "vader"
    return {
        name: split_vader(vader / f"{stem}_GroundTruth.txt", options.seed)
        for name, stem in VADER.items()
    }


def make_scores(options: argparse.Namespace) -> None:
    """Write scores.json: accuracy in float32 arithmetic, beside the source checkpoint's."""
    sets = {"sst2-dev": read_tsv(options.data / "sst2" / "dev.tsv")}
    for name, split in vader_splits(options).items():
        sets[f"vader-{name}-slice"] = split.labelled
        sets[f"vader-{name}-held-out"] = split.held_out
    accuracy: dict[str, dict[str, float | int]] = {name: {"rows": len(sets[name])} for name in sets}
    for checkpoint, folder in (("sentiment-mini", options.out), ("source", options.source)):
        model, tokenizer = load(folder)
        for name, examples in sets.items():
            chosen = predict(model, tokenizer, [e.text for e in examples]).argmax(-1).tolist()
            right = sum(row == e.label for row, e in zip(chosen, examples, strict=True))
            accuracy[name][checkpoint] = round(right / len(examples), 4)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}
    scores = {
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), **versions},
        "arithmetic": "float32",
        "accuracy": accuracy,
    }
    write_json(options.out / "scores.json", scores)
    print(json.dumps(accuracy, indent=2))


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "model": make_model,
    "data": make_data,
    "scores": make_scores,
}


def main() -> None:
    """Run the stages that the command line names, in its order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", default=list(STAGES), help=", ".join(STAGES))
    parser.add_argument("--source", type=Path, default=SHARED / "models" / "minilm-l6-sst2")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--gate-sentences", type=Path, metavar="FILE", help="write 500 sentences")
    parser.add_argument("--vocab-size", type=int, default=7168, help="pieces kept")
    parser.add_argument("--epochs", type=int, default=3, help="of the refit; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(2)
    for stage in options.stages:
        STAGES[stage](options)


if __name__ == "__main__":
    main()
