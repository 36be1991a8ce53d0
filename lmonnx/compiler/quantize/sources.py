"""Text as an encoder-decoder reads it, with its languages: what gate and calibration run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Generation, Languages, Place, Seq2Seq
from lmonnx.errors import InputError
from lmonnx.measure.sentences import gate_sentences
from lmonnx.runtime.generate.pair_tokenizer import SourceTokenizer

Ids = NDArray[np.int64]
_USUAL = ("en", "eng_Latn", "en_XX")  # where a model has many languages and no default


def gate_sources(bundle: Bundle, text: str | None) -> list[Ids]:
    """Return the sources of the gate: the lines of a text, or half of the shipped sentences."""
    if text is None:
        return read_sources(bundle, gate_sentences()[1::2])
    return read_sources(bundle, [line for line in text.splitlines() if line.strip()])


def calibration_sources(bundle: Bundle, count: int, vocabulary: int, seed: int = 0) -> list[Ids]:
    """Return some of the other half of the sentences, and as many tokens of the whole vocabulary.

    The sentences are English and the model may know none of it: tokens drawn at random are of its
    own languages.

    Args:
        bundle: The encoder-decoder.
        count: How many sentences at most.
        vocabulary: How many ids the encoder knows.
        seed: Of the tokens drawn.
    """
    sentences = read_sources(bundle, gate_sentences()[::2])[:count]
    random = np.random.default_rng(seed)
    begin, end = source_frame(bundle)
    drawn = [
        np.array([*begin, *random.integers(vocabulary, size=_inner(ids, begin, end)), *end])
        for ids in sentences
    ]
    return [*sentences, *drawn]


def read_sources(bundle: Bundle, texts: Sequence[str]) -> list[Ids]:
    """Return the ids of texts, (S,) each, cut to what the model reads.

    Raises:
        InputError: There is no text.
    """
    if not texts:
        raise InputError("the text has no lines; give one sentence a line")
    text = bundle.manifest.text
    before, after = _around(bundle)
    tokenizer = SourceTokenizer(bundle.path, text)
    end = [*tokenizer.frame[1], *after]
    most = text.max_length - len(end)
    encoded = tokenizer.encode(texts, before=before, after=after)
    cut = [ids if len(ids) <= text.max_length else [*ids[:most], *end] for ids in encoded]
    return [np.array(ids, np.int64) for ids in cut if ids]


def start_ids(generation: Generation) -> list[int]:
    """Return what every target begins with: the start token, and one that is forced."""
    spec = generation.seq2seq or Seq2Seq(None)
    place = spec.languages.target_place if spec.languages else Place.NONE
    target = _language(spec.languages, "target") if spec.languages else None
    first = target if place is Place.START else spec.start_id
    forced = (generation.defaults or {}).get("forced_bos_token_id")
    forced = target if place is Place.FORCED else forced
    return [int(token) for token in (first, forced) if token is not None]


def _inner(ids: Ids, begin: Sequence[int], end: Sequence[int]) -> int:
    return max(1, len(ids) - len(begin) - len(end))


def source_frame(bundle: Bundle) -> tuple[list[int], list[int]]:
    """Return the tokens before and after those of every source, languages among them."""
    before, after = _around(bundle)
    begin, end = SourceTokenizer(bundle.path, bundle.manifest.text).frame
    return [*before, *begin], [*end, *after]


def _around(bundle: Bundle) -> tuple[list[int], list[int]]:
    """Return the tokens of languages that stand before a source and after it."""
    generation = bundle.manifest.generation
    languages = generation.seq2seq.languages if generation and generation.seq2seq else None
    found: dict[Place, list[int]] = {Place.BEFORE: [], Place.AFTER: []}
    if languages is None:
        return [], []
    for side, place in (("source", languages.source_place), ("target", languages.target_place)):
        token = _language(languages, side)
        if place in found and token is not None:
            found[place].append(token)
    return found[Place.BEFORE], found[Place.AFTER]


def _language(languages: Languages, side: str) -> int | None:
    """Return the token of the default source or target language, or else of a usual one."""
    code = languages.source if side == "source" else languages.target
    tried = ([code] if code else []) + [*_USUAL, *languages.ids]
    return next((languages.ids[each] for each in tried if each in languages.ids), None)
