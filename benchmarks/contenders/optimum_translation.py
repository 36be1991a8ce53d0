"""optimum: ORTModelForSeq2SeqLM, float32, below transformers' `generate`; batches as there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
from optimum.onnxruntime import ORTModelForSeq2SeqLM
from protocol import made
from transformers_translation import Transformers
from translation import serve


class Optimum(Transformers):
    """Its three graphs, or two."""

    def load(self, model: str, cache: str, threads: int) -> Any:
        """Export once, and load what was exported."""

        def make(folder: Path) -> None:
            ORTModelForSeq2SeqLM.from_pretrained(model, export=True).save_pretrained(folder)

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        folder = made(Path(cache) / "optimum-seq2seq", make)
        return ORTModelForSeq2SeqLM.from_pretrained(folder, session_options=options)


if __name__ == "__main__":
    serve(Optimum())
