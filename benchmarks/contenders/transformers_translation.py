"""torch and transformers: `generate` in float32, sorted batches; tokenizer included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from translation import Translator, serve, sorted_batches

BATCHES = {f"sorted, batch {size}": size for size in (8, 32, 64)}


class Transformers(Translator):
    """The reference itself."""

    def prepare(self, model: str, cache: str, threads: int) -> Sequence[str]:
        """Load the checkpoint in float32."""
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model: Any = self.load(model, cache, threads)
        return list(BATCHES)

    def load(self, model: str, cache: str, threads: int) -> Any:
        """Return what has `generate`."""
        del cache, threads
        return AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32).eval()

    def translate(self, variant: str, texts: list[str], beams: int, new: int | None) -> list[str]:
        """Return the answers."""
        rule = {} if new is None else {"max_new_tokens": new, "min_new_tokens": new}

        def answer(some: list[str]) -> list[str]:
            asked = self.tokenizer(some, return_tensors="pt", padding=True)
            with torch.inference_mode():
                found = self.model.generate(**asked, num_beams=beams, do_sample=False, **rule)
            return self.tokenizer.batch_decode(found, skip_special_tokens=True)

        return sorted_batches(texts, BATCHES[variant], answer)


if __name__ == "__main__":
    serve(Transformers())
