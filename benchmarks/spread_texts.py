"""Write texts whose token counts are spread evenly, made of a corpus' sentences.

`python benchmarks/spread_texts.py TOKENIZER CORPUS OUT LEAST MOST COUNT SEED` joins sentences in a
random order, cut at a word, so that the i-th of COUNT texts has LEAST to MOST tokens in even steps,
special tokens included; a word of several tokens may leave it a few short. OUT is a JSON list in a
random order. Prints the counts that came out.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from environments import enter

if __name__ == "__main__":
    enter("lmonnx")  # which has tokenizers

from tokenizers import Tokenizer

SPECIAL = 2  # [CLS] and [SEP]


def main() -> None:
    """Write what the command line asks for."""
    arguments = _arguments()
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    dice = random.Random(arguments.seed)
    sentences = read_sentences(arguments.corpus)
    dice.shuffle(sentences)
    lengths = spread(arguments.least, arguments.most, arguments.count)
    dice.shuffle(lengths)
    texts = make_texts(tokenizer, sentences, lengths)
    arguments.out.write_text(json.dumps(texts, ensure_ascii=False, indent=0), encoding="utf-8")
    counts = sorted(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
    quarters = [counts[len(counts) * quarter // 4] for quarter in (1, 2, 3)]
    print(f"{len(counts)} texts of {counts[0]} to {counts[-1]} tokens, quartiles {quarters}")


def read_sentences(corpus: Path) -> list[str]:
    """Return the sentences of WikiText's paragraphs, without the headings."""
    lines = (line.strip() for line in corpus.read_text(encoding="utf-8").splitlines())
    paragraphs = (line for line in lines if line and not line.startswith("="))
    return [part for line in paragraphs for part in re.split(r"(?<= [.!?]) ", line)]


def spread(least: int, most: int, count: int) -> list[int]:
    """Return `count` numbers in even steps, both ends among them."""
    steps = max(1, count - 1)
    return [round(least + (most - least) * step / steps) for step in range(count)]


def make_texts(tokenizer: Tokenizer, sentences: Sequence[str], lengths: Sequence[int]) -> list[str]:
    """Return a text of each length; the corpus begins again where it ends."""

    @cache
    def size(word: str) -> int:
        return len(tokenizer.encode(word, add_special_tokens=False).ids)

    def turns() -> Iterator[str]:
        while True:
            yield from sentences

    texts, stream = [], turns()
    for length in lengths:
        words: list[str] = []
        room = length - SPECIAL
        while room > 0:
            for word in next(stream).split():
                room -= size(word)
                if room < 0:
                    break
                words.append(word)
        texts.append(" ".join(words))
    return texts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write texts of evenly spread token counts.")
    for name in ("tokenizer", "corpus", "out"):
        parser.add_argument(name, type=Path)
    for name in ("least", "most", "count", "seed"):
        parser.add_argument(name, type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
