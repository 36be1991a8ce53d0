"""Pairs of tokens → what each token of a source allows, and what is allowed always."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Generation
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.quantize.layers import is_lookup
from lmonnx.compiler.quantize.pairs import AT_ONCE, Logits, Pair, PairModel, greedy
from lmonnx.compiler.quantize.sources import source_frame
from lmonnx.compiler.shortlist.alignment import align
from lmonnx.progress import Progress, silent, track
from lmonnx.runtime.generate.shortlist import Shortlist

RARE = 20  # times that a token must stand in the corpus for its translations to be learnt there
MOST_ASKED = 2**16  # tokens that the bundle is asked for, the most frequent first
_STEPS = 3  # tokens that the bundle writes where it is asked for a token's translations
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_FORCED = ("forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id", "pad_token_id")

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Learnt:
    """A map, and how it came about: pairs that were read, tokens that the bundle was asked for."""

    shortlist: Shortlist
    pairs: int
    asked: int


def learn(
    bundle: Bundle, pairs: Sequence[Pair], *, top: int, per_token: int, progress: Progress
) -> Learnt:
    """Return which ids each token of a source allows.

    Those are its `per_token` likeliest translations in the corpus. A token that stands there fewer
    than `RARE` times allows beside these what the bundle makes of it alone, and every token itself:
    names and numbers stay as they are.

    Args:
        bundle: The encoder-decoder.
        pairs: Sources and targets.
        top: How many of the most frequent target tokens are always allowed.
        per_token: K; 0 leaves sources without lists of their own.
        progress: Told how far it is.
    """
    model = PairModel(bundle)
    vocabulary = model.generation.vocabulary
    always = np.union1d(_frequent(pairs, top, vocabulary), special_ids(bundle))
    if not per_token:
        none = np.zeros(0, np.int64)
        return Learnt(Shortlist(always, np.zeros(1, np.int64), none, vocabulary), len(pairs), 0)
    known = _known_tokens(bundle, vocabulary)
    found = align(pairs, progress=progress)
    counts = np.bincount(np.concatenate([pair.source for pair in pairs]), minlength=known)
    begin, end = source_frame(bundle)
    framing = np.array([*begin, *end], np.int64)
    rare = np.setdiff1d(np.flatnonzero(counts[:known] < RARE), [*special_ids(bundle), *framing])
    rare = rare[np.argsort(-counts[rare], kind="stable")][:MOST_ASKED]
    itself = np.arange(min(known, vocabulary))
    parts = [
        found.likeliest(per_token),
        _asked(model, rare, (begin, end), per_token, progress),
        (itself, itself),
    ]
    sources, targets = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    kept = (targets < vocabulary) & (sources < known) & ~np.isin(targets, always)
    keys = np.unique(sources[kept] * vocabulary + targets[kept])
    starts = np.searchsorted(keys, np.arange(known + 1) * vocabulary)
    made = Shortlist(always, starts, keys % vocabulary, vocabulary)
    return Learnt(made, found.pairs, len(rare))


def special_ids(bundle: Bundle) -> Ids:
    """Return the ids that an answer needs whatever it says, and the bytes that spell the rest."""
    generation = bundle.manifest.generation
    text = bundle.manifest.text
    spec = text.target or text.source
    found = {spec.pad_id, *_stated(generation)} if generation else {spec.pad_id}
    read = json.loads(bundle.file(spec.file).read_text(encoding="utf-8"))
    found |= {token["id"] for token in read.get("added_tokens", ()) if token["special"]}
    found |= {index for piece, index in _pieces(read) if _BYTE.fullmatch(piece)}
    vocabulary = generation.vocabulary if generation else 0
    return np.array(sorted(i for i in found if 0 <= i < vocabulary), np.int64)


def _stated(generation: Generation) -> set[int]:
    defaults, spec = generation.defaults or {}, generation.seq2seq
    forced = [defaults.get(name) for name in _FORCED]
    forced += [pair[-1] for pair in defaults.get("forced_decoder_ids") or ()]
    named = [generation.bos_id, *generation.stop_ids, *forced]
    if spec is not None:
        named += [spec.start_id, *(spec.languages.ids.values() if spec.languages else ())]
    flat = [each for name in named for each in (name if isinstance(name, list) else [name])]
    return {int(index) for index in flat if index is not None}


def _pieces(tokenizer: dict[str, Any]) -> Iterable[tuple[str, int]]:
    """Yield the pieces of a tokenizer.json with their ids: by piece, or in their order."""
    vocab = tokenizer["model"].get("vocab", {})
    if isinstance(vocab, dict):
        return vocab.items()
    return ((entry[0], index) for index, entry in enumerate(vocab))


def _frequent(pairs: Sequence[Pair], count: int, vocabulary: int) -> Ids:
    counts = np.bincount(np.concatenate([p.target for p in pairs]), minlength=vocabulary)
    ranked = np.argsort(-counts, kind="stable")[:count]
    return ranked[counts[ranked] > 0]


def _known_tokens(bundle: Bundle, vocabulary: int) -> int:
    """Return how many ids the encoder looks up."""
    graph = load_graph(bundle.file(bundle.manifest.graphs["encoder"].file)).graph
    tables = {node.input[0] for node in graph.node if is_lookup(node)}
    sizes = [int(t.dims[0]) for t in graph.initializer if t.name in tables]
    return min(sizes, default=vocabulary)


def _asked(
    model: PairModel,
    tokens: Ids,
    frame: tuple[Sequence[int], Sequence[int]],
    count: int,
    progress: Progress,
) -> tuple[Ids, Ids]:
    """Return the likeliest tokens of the first steps of a bundle that reads one token alone."""
    each = -(-count // _STEPS)
    groups = [tokens[start : start + AT_ONCE] for start in range(0, len(tokens), AT_ONCE)]
    sources, targets = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for group in track(groups, "asking for rare tokens", progress):
        steps: list[Ids] = []

        def choose(logits: Logits, steps: list[Ids] = steps) -> Ids:
            most = min(each, logits.shape[1] - 1)
            if len(steps) < _STEPS:
                steps.append(np.argpartition(-logits, most, axis=1)[:, :most])
            return greedy(logits)

        read = [np.array([*frame[0], token, *frame[1]], np.int64) for token in group]
        model.write(read, choose, more=_STEPS - len(read[0]), progress=silent)
        for step in steps:
            sources.append(np.repeat(group, step.shape[1]))
            targets.append(step.ravel())
    return np.concatenate(sources), np.concatenate(targets)
