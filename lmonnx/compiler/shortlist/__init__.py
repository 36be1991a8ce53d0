"""Encoder-decoder → one whose head multiplies what a batch may say, accepted if that is enough."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import draft_at
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.shortlist.corpus import read_corpus
from lmonnx.compiler.shortlist.direction import one_way
from lmonnx.compiler.shortlist.gate import coverage, open_list_gate
from lmonnx.compiler.shortlist.head import find_head
from lmonnx.compiler.shortlist.learn import learn
from lmonnx.compiler.shortlist.written import write_listed_pair
from lmonnx.compiler.stage import finish, make_step
from lmonnx.errors import InputError, StageError
from lmonnx.measure.references import Rewriting
from lmonnx.progress import Progress, silent

__all__ = ["shortlist"]

TOP, PER_TOKEN, MAX_DROP = 300, 100, 0.01


def shortlist(
    bundle: Bundle,
    target: Path,
    *,
    text: str | None = None,
    examples: Sequence[Rewriting] | None = None,
    top: int = TOP,
    per_token: int = PER_TOKEN,
    max_drop: float | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Bundle:
    """Write an encoder-decoder that ranks, at every step, only what its sources may be answered by.

    One pair in ten, at most 500, is held back and measured on. The step in the manifest has the
    share of their tokens that the lists hold (`coverage`; of whole targets `whole`), the ids of a
    source's list (`ids`, a mean), the probability that the input bundle gives to them (`inside`),
    and what is lost (`drop`).

    Args:
        bundle: An encoder-decoder of any precision.
        target: The new bundle's folder.
        text: Sources, one a line; the bundle's own answers are then the targets.
        examples: Sources and references, in the place of `text`.
        top: How many of the most frequent target tokens are always allowed.
        per_token: How many target tokens a source token allows; 0 leaves the most frequent alone.
        max_drop: How much may be lost of the task's figure with references, without of the
            tokens that the input bundle would choose; as a share, 0.01 unasked.
        source_lang: The language of the sources, where the model has several. The new bundle knows
            these two alone.
        target_lang: That of the answers.
        force: Replace a bundle that is there.
        progress: Told how far it is.

    Raises:
        GateError: More is lost; nothing is written.
        ParityError: The new graph's logits are not the old one's.
        StageError: It is no encoder-decoder, or has a shortlist, or a head of another form.
        InputError: An option is wrong, or there is too little text.
    """
    limit = MAX_DROP if max_drop is None else max_drop
    _check(bundle, top, per_token, limit)
    bundle, prefix = one_way(bundle, source_lang, target_lang)
    corpus = read_corpus(bundle, text=text, examples=examples, prefix=prefix, progress=progress)
    learnt = learn(bundle, corpus.learnt, top=top, per_token=per_token, progress=progress)
    gate = open_list_gate(bundle, corpus, limit, progress=progress)
    with draft_at(target, source=bundle.path, force=force) as draft:
        manifest = write_listed_pair(bundle, draft, learnt.shortlist)
        told, parity = gate.measure(Bundle.open(draft.path, verify=False), progress)
        metrics = coverage(learnt.shortlist, corpus) | told
        metrics |= {"pairs": learnt.pairs, "asked": learnt.asked}
        options: dict[str, Any] = {"top": top, "per_token": per_token, "max_drop": limit}
        languages = {"source_lang": source_lang, "target_lang": target_lang}
        options |= {name: code for name, code in languages.items() if code is not None}
        step = make_step("shortlist", options, parity=(parity,), metrics=metrics)
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


def _check(bundle: Bundle, top: int, per_token: int, max_drop: float) -> None:
    generation = bundle.manifest.generation
    if generation is None or generation.seq2seq is None:
        raise StageError(f"{bundle.path} is no encoder-decoder; only these have a shortlist")
    if generation.seq2seq.shortlist is not None:
        raise StageError(f"{bundle.path} has a shortlist; give the bundle that it was made from")
    for name, value in (("top", top), ("per_token", per_token)):
        if value < 0:
            raise InputError(f"{name} is {value}, must be 0 or more")
    if not -1 <= max_drop <= 1:
        raise InputError(f"max_drop is {max_drop}, must be between -1 and 1")
    find_head(load_graph(bundle.file(bundle.manifest.graphs["decoder"].file)).graph)
