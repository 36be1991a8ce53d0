"""What transformers writes with an encoder-decoder, one text at a time, and how likely it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Languages, Place
from lmonnx.bundle.settings import NOT_BUILT
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.reference import LOCAL, reference_runs
from lmonnx.errors import StageError

Ids = tuple[int, ...]

# Settings that a comparison does without, as a bundle does; `write` gives each its usual value.
_LEFT_OUT = (*NOT_BUILT, "assistant_early_exit", "max_time", "num_return_sequences")


@dataclass(frozen=True, slots=True)
class Asked:
    """The languages of a comparison, where the model has several, by their codes."""

    source: str | None = None
    target: str | None = None

    @classmethod
    def of(cls, languages: Languages | None) -> Self:
        """Return the defaults of a model, else two that it has."""
        if languages is None:
            return cls()
        codes = list(languages.ids)
        source = languages.source or codes[0]
        target = languages.target or next((code for code in codes if code != source), source)
        return cls(
            None if languages.source_place is Place.NONE else source,
            None if languages.target_place is Place.NONE else target,
        )


class PairReference:
    """A checkpoint's encoder-decoder as transformers runs it, in float32."""

    def __init__(self, checkpoint: Checkpoint, languages: Languages | None) -> None:
        """Load it; no code of the checkpoint is run, and nothing is downloaded.

        Raises:
            StageError: transformers cannot load it.
        """
        import torch
        import transformers

        auto = transformers.AutoModelForSeq2SeqLM
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.path, **LOCAL)
            self._model = auto.from_pretrained(checkpoint.path, dtype=torch.float32, **LOCAL).eval()
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise StageError(
                f"transformers cannot load {checkpoint.repo}: {error!s:.300}"
            ) from error
        _spare_cache(self._model)
        self._languages, self.asked = languages, Asked.of(languages)
        self._name = checkpoint.repo

    def source(self, text: str, *, longest: int) -> list[int]:
        """Return the ids that the encoder reads of a text."""
        if self.asked.source is not None and hasattr(self._tokenizer, "src_lang"):
            self._tokenizer.src_lang = self.asked.source
        if self._place("target") is Place.BEFORE:
            text = f"{self._token(self.asked.target)} {text}"  # as Marian's of many languages
        with reference_runs(self._name):
            encoding = self._tokenizer(text, truncation=True, max_length=longest)
        return [int(index) for index in encoding["input_ids"]]

    def write(self, source: Sequence[int], *, beams: int, new: int) -> Ids:
        """Return what is written of a source: its tokens after the start, the end included.

        Settings of the checkpoint that are not built here are left out.

        Raises:
            StageError: transformers fails.
        """
        import torch
        from transformers import GenerationConfig

        usual = GenerationConfig()
        left_out = {name: getattr(usual, name) for name in _LEFT_OUT}
        ids, target = torch.tensor([list(source)]), self._target()
        with torch.inference_mode(), reference_runs(self._name):
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=new,
                min_new_tokens=0,
                **left_out,
                **target,
            )
        return self._until_end(found[0].tolist()[1:])

    def logits(self, source: Sequence[int], target: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each token of a target (T,), its start included: (T, V).

        Raises:
            StageError: transformers fails.
        """
        import torch

        with torch.inference_mode(), reference_runs(self._name):
            found = self._model(
                input_ids=torch.tensor([list(source)]),
                decoder_input_ids=torch.tensor([list(target)]),
            )
        logits: NDArray[np.float32] = found.logits[0].float().numpy()
        return logits

    def _target(self) -> dict[str, Any]:
        place = self._place("target")
        if self._languages is None or self.asked.target is None:
            return {}
        token = self._languages.ids[self.asked.target]
        names = {Place.FORCED: "forced_bos_token_id", Place.START: "decoder_start_token_id"}
        return {names[place]: token} if place in names else {}

    def _place(self, side: str) -> Place:
        if self._languages is None:
            return Place.NONE
        place: Place = getattr(self._languages, f"{side}_place")
        return place

    def _token(self, code: str | None) -> str:
        ids = self._languages.ids if self._languages else {}
        return str(self._tokenizer.convert_ids_to_tokens(ids[str(code)]))

    def _until_end(self, ids: list[int]) -> Ids:
        ends = self._model.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends])
        forced = int(ids[:1] == self._first_forced())
        end = next((n for n, index in enumerate(ids) if index in stops and n >= forced), None)
        return tuple(ids if end is None else ids[: end + 1])

    def _first_forced(self) -> list[int]:
        forced = self._model.generation_config.forced_bos_token_id
        return [] if forced is None else [int(forced)]


def _spare_cache(model: Any) -> None:
    """Let a model whose decoder is the deeper half do without a cache.

    Its cache has as many layers as the encoder (transformers 4.57), which ends in an IndexError.
    """
    config = model.config
    layers = getattr(config, "num_decoder_layers", 0) or getattr(config, "decoder_layers", 0)
    if layers > getattr(config, "num_hidden_layers", layers):
        config.use_cache = model.generation_config.use_cache = False
