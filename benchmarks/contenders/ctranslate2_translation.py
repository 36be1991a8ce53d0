"""CTranslate2 int8: both ways to use two threads, batches by texts and by tokens; SentencePiece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2
from protocol import made
from sentencepiece import SentencePieceProcessor
from translation import Translator, serve

LONGEST = 127  # tokens of an answer at most, its end included, as the checkpoint says
# It sorts what it is given by length itself. Sizes count texts, or tokens of the source.
BATCHES: dict[str, dict[str, Any]] = {
    "16 texts": {"max_batch_size": 16},
    "32 texts": {"max_batch_size": 32},
    "64 texts": {"max_batch_size": 64},
    "1024 tokens": {"max_batch_size": 1024, "batch_type": "tokens"},
    "4096 tokens": {"max_batch_size": 4096, "batch_type": "tokens"},
}
END = "</s>"


class CTranslate2(Translator):
    """A C++ engine with kernels of its own."""

    def prepare(self, model: str, cache: str, threads: int) -> Sequence[str]:
        """Convert once; the engines are loaded as they are asked for."""
        self.folder, self.engines = str(converted(model, Path(cache))), {}
        both = [Path(model) / f"{side}.spm" for side in ("source", "target")]
        one = Path(model) / "spiece.model"
        files = both if both[0].is_file() else [one, one]
        self.source, self.target = (SentencePieceProcessor(str(file)) for file in files)
        self.ways = {f"{n} × {threads // n}": (n, threads // n) for n in (1, threads)}
        return [f"{way}, {batch}" for way in self.ways for batch in BATCHES]

    def translate(self, variant: str, texts: list[str], beams: int, new: int | None) -> list[str]:
        """Return the answers."""
        way, batch = variant.split(", ")
        if new is None:
            rule = {"max_decoding_length": LONGEST}
        else:
            rule = {"max_decoding_length": new, "min_decoding_length": new}
        pieces = [[*row, END] for row in self.source.encode(texts, out_type=str)]
        found = self.engine(way).translate_batch(
            pieces, beam_size=beams, max_input_length=0, **rule, **self.batches(batch, way, texts)
        )
        rows = [each.hypotheses[0] for each in found]
        if new is not None:
            assert all(len(row) == new for row in rows)
        return [self.target.decode(row) for row in rows]

    def engine(self, way: str) -> ctranslate2.Translator:
        """Return the engine that uses the threads in a way."""
        if way not in self.engines:
            inter, intra = self.ways[way]
            self.engines[way] = ctranslate2.Translator(
                self.folder,
                device="cpu",
                compute_type="int8",
                inter_threads=inter,
                intra_threads=intra,
            )
        return self.engines[way]

    def batches(self, batch: str, way: str, texts: list[str]) -> dict[str, Any]:
        """Return how texts are divided; few are shared out evenly among its workers."""
        share = -(-len(texts) // self.ways[way][0])
        asked = BATCHES[batch]
        return {"max_batch_size": share} if share <= 16 else asked


def converted(model: str, cache: Path) -> Path:
    """Return the folder of the int8 conversion, made first where it is not there."""

    def convert(folder: Path) -> None:
        converter = ctranslate2.converters.TransformersConverter(model)
        converter.convert(str(folder), quantization="int8", force=True)

    return made(cache / "ctranslate2-int8", convert)


if __name__ == "__main__":
    serve(CTranslate2())
