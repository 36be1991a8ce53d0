"""A corpus as pairs of tokens: texts with references, or texts alone, which the bundle answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.quantize.pairs import Ids, Pair, PairModel, greedy
from lmonnx.compiler.quantize.sources import read_sources, start_ids
from lmonnx.errors import InputError
from lmonnx.measure.references import Rewriting
from lmonnx.progress import Progress
from lmonnx.runtime.generate.pair_tokenizer import TargetTokenizer

HELD = 500  # pairs that are measured on, at most,
ONE_IN = 10  # of which the corpus has that many times more
_MORE = 32  # tokens of an answer beyond twice its source's


@dataclass(frozen=True, slots=True)
class Corpus:
    """Pairs to learn from, and pairs to measure on; with references also those of the latter.

    `forced` is how many tokens of a target nobody chose.
    """

    learnt: Sequence[Pair]
    held: Sequence[Pair]
    examples: Sequence[Rewriting] | None
    forced: int


def read_corpus(
    bundle: Bundle,
    *,
    text: str | None,
    examples: Sequence[Rewriting] | None,
    prefix: str,
    progress: Progress,
) -> Corpus:
    """Return what to learn from, one pair in ten of it held back.

    Args:
        bundle: The encoder-decoder.
        text: Sources, one a line; the bundle's own greedy answers are then the targets.
        examples: Sources and references, in the place of `text`.
        prefix: What the model wants before every source.
        progress: Told how far it is.

    Raises:
        InputError: There are not two pairs.
    """
    if (text is None) == (examples is None):
        raise InputError("a shortlist is learnt from sources or from pairs: give one of both")
    lines = [line for line in (text or "").splitlines() if line.strip()]
    known = [each for each in examples or () if each.source.strip() and each.references[0].strip()]
    if max(len(lines), len(known)) < 2:
        raise InputError("a shortlist is learnt from at least two texts; give more to --data")
    model = PairModel(bundle)
    first, most = start_ids(model.generation), model.generation.context
    forced = max(1, len(first))
    if examples is None:
        sources = [
            ids for ids in _sources(bundle, [prefix + line for line in lines]) if ids is not None
        ]
        pairs = model.write(sources, greedy, more=_MORE, progress=progress, what="answering")
        return _split(pairs, None, forced)
    target = TargetTokenizer(bundle.path, bundle.manifest.text)
    answers = target.encode([each.references[0] for each in known])
    read = zip(
        known, _sources(bundle, [prefix + each.source for each in known]), answers, strict=True
    )
    kept = [(each, source, answer) for each, source, answer in read if source is not None]
    pairs = [Pair(source, np.array([*first, *answer][:most])) for _, source, answer in kept]
    return _split(pairs, [each for each, _, _ in kept], forced)


def _sources(bundle: Bundle, texts: Sequence[str]) -> Sequence[Ids | None]:
    """Return the ids of each text, None where it has no tokens."""
    found = read_sources(bundle, texts)
    if len(found) == len(texts):
        return found
    return [next(iter(read_sources(bundle, [text])), None) for text in texts]


def _split(pairs: Sequence[Pair], examples: Sequence[Rewriting] | None, forced: int) -> Corpus:
    held = set(range(0, len(pairs), max(ONE_IN, -(-len(pairs) // HELD))))
    return Corpus(
        [pair for place, pair in enumerate(pairs) if place not in held],
        [pairs[place] for place in sorted(held)],
        None if examples is None else [examples[place] for place in sorted(held)],
        forced,
    )
