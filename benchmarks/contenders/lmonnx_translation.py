"""lmonnx: an encoder-decoder's bundle, one call with all texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from translation import Translator, serve

import lmonnx


class Lmonnx(Translator):
    """What this repository makes; the model's folder is a bundle's."""

    def prepare(self, model: str, cache: str, threads: int) -> Sequence[str]:
        """Load the bundle."""
        del cache
        self.model = lmonnx.load(model, threads=threads, verify=False)
        return ["one call"]

    def translate(self, variant: str, texts: list[str], beams: int, new: int | None) -> list[str]:
        """Return the answers."""
        del variant
        params = replace(self.model.defaults, num_beams=beams)
        if new is None:
            return [answer.text for answer in self.model(texts, params)]
        params = replace(params, max_new_tokens=new, min_new_tokens=new, ignore_eos=True)
        found = self.model(texts, params, prefix="", split="none")
        assert all(answer.completion_tokens == new for answer in found)
        return [answer.text for answer in found]


if __name__ == "__main__":
    serve(Lmonnx())
