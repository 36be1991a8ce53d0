"""An encoder-decoder's bundle against its checkpoint: logits of given answers, and own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Parity, Precision
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.quantize.pairs import Pair, PairModel
from lmonnx.compiler.quantize.sources import start_ids
from lmonnx.compiler.reference import transformers_ready
from lmonnx.compiler.reference_pairs import PairReference
from lmonnx.errors import ParityError
from lmonnx.measure.decisions import Decision, margins
from lmonnx.measure.parity import NEAR_TIE
from lmonnx.measure.sentences import parity_sentences
from lmonnx.progress import Progress, silent, track
from lmonnx.runtime.pipelines.text_to_text import TextToText

TEXTS, NEW = 12, 24  # each is written twice by transformers, a token at a time
BEAMS = 4
NEAR_SCORES = 1e-5  # of two answers: float32 may take the other

Logits = NDArray[np.float32]


class Scorer(Protocol):
    """What gives the logits after each token of a target, its start included: (T, V)."""

    def logits(self, source: Sequence[int], target: Sequence[int]) -> Logits:
        """Return them."""
        ...


def verify_pairs(bundle: Bundle, checkpoint: Checkpoint, *, progress: Progress = silent) -> Parity:
    """Return how far a bundle is from its checkpoint on 12 sentences of mixed length.

    The logits are compared after every token of what transformers writes greedily. In float32 the
    bundle must also write the same by itself, greedily and with 4 beams, unless two answers are
    equally likely.

    Raises:
        UnsupportedError: transformers is not installed.
        StageError: transformers fails on the checkpoint.
        ParityError: They are not of one model, or write another answer.
    """
    sentences = parity_sentences()
    texts = sentences[:: len(sentences) // TEXTS][:TEXTS]
    manifest, longest = bundle.manifest, bundle.manifest.text.max_length
    generation = manifest.generation
    languages = generation.seq2seq.languages if generation and generation.seq2seq else None
    with transformers_ready():
        reference = PairReference(checkpoint, languages)
        new = min(NEW, generation.context - 1) if generation else NEW
        sources = [reference.source(text, longest=longest) for text in texts]
        written = {
            beams: [
                reference.write(source, beams=beams, new=new)
                for source in track(sources, "reference", progress)
            ]
            for beams in (1, BEAMS)
        }
        parity = _compared(bundle, reference, sources, written[1], checkpoint.repo)
        if manifest.precision is Precision.FLOAT32:
            for beams, answers in written.items():
                _same_answers(bundle, reference, texts, answers, beams=beams, new=new)
    return parity


def _compared(
    bundle: Bundle,
    reference: PairReference,
    sources: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    name: str,
) -> Parity:
    model = PairModel(bundle)
    first = start_ids(model.generation)[:1]
    tally = _Tally()
    for source, answer in zip(sources, answers, strict=True):
        target = [*first, *answer[:-1]]
        pair = Pair(np.array(source, np.int64), np.array(target, np.int64))
        wanted, given = reference.logits(source, target), model.logits(pair)
        if wanted.shape[1] < given.shape[1]:
            raise ParityError(
                f"the bundle gives {given.shape[1]} logits, transformers {wanted.shape[1]}; "
                "they are not of one model"
            )
        tally.add(wanted[:, : given.shape[1]], given)
    return tally.parity(f"transformers on {name}", len(sources))


@dataclass(slots=True)
class _Tally:
    """What is known of all logits so far, so that none need be kept."""

    difference: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    rows: int = 0
    same: int = 0
    clear: int = 0
    clear_same: int = 0

    def add(self, wanted: Logits, given: Logits) -> None:
        """Take the logits of an answer: (T, V) each."""
        far = float(np.abs(wanted - given).max())
        self.difference = max(self.difference, far) if np.isfinite(far) else np.inf
        self.low, self.high = min(self.low, wanted.min()), max(self.high, wanted.max())
        same = wanted.argmax(axis=1) == given.argmax(axis=1)
        clear = margins(wanted, Decision.BEST) >= NEAR_TIE
        self.rows += len(same)
        self.same += int(same.sum())
        self.clear += int(clear.sum())
        self.clear_same += int((same & clear).sum())

    def parity(self, reference: str, texts: int) -> Parity:
        """Return the sum of it all."""
        scale = float(self.high - self.low) or 1.0
        return Parity(
            reference=reference,
            texts=texts,
            max_difference=self.difference,
            relative=self.difference / scale,
            agreement=self.same / max(1, self.rows),
            clear_agreement=self.clear_same / self.clear if self.clear else 1.0,
        )


def _same_answers(
    bundle: Bundle,
    reference: PairReference,
    texts: Sequence[str],
    answers: Sequence[tuple[int, ...]],
    *,
    beams: int,
    new: int,
) -> None:
    asked = reference.asked
    with TextToText(bundle) as model:
        params = replace(
            model.built_defaults, num_beams=beams, max_new_tokens=new, min_new_tokens=0,
            temperature=0.0, n=1,
        )  # fmt: skip
        languages = {"source_lang": asked.source, "target_lang": asked.target}
        prefix = "" if asked.source is asked.target is None else None
        found = model(texts, params, prefix=prefix, split="truncate", **languages)
        first = start_ids(model.generation)[:1]
        for text, given, wanted in zip(texts, found, answers, strict=True):
            if given.token_ids == wanted:
                continue
            source = reference.source(text, longest=model.source_limit)
            gap = score_gap(
                reference, source, first, (given.token_ids, wanted),
                penalty=params.length_penalty if beams > 1 else None,
            )  # fmt: skip
            if gap > NEAR_SCORES:
                raise ParityError(
                    f"of {text[:60]!r} the bundle writes {given.text[:60]!r}, transformers "
                    f"something {gap:.1e} likelier ({'greedy' if beams == 1 else f'{beams} beams'})"
                )


def score_gap(
    scorer: Scorer,
    source: Sequence[int],
    start: Sequence[int],
    answers: tuple[Sequence[int], Sequence[int]],
    *,
    penalty: float | None,
) -> float:
    """Return how far apart two answers are that should have been one.

    Args:
        scorer: The reference.
        source: What was read.
        start: What the decoder starts with.
        answers: Tokens after the start.
        penalty: Of beams, the exponent of an answer's length in its score; None compares the
            two tokens where greedy answers part.
    """
    logprobs = [_logprobs(scorer.logits(source, [*start, *each[:-1]]), each) for each in answers]
    if penalty is not None:
        one, other = (each.sum() / len(each) ** penalty for each in logprobs)
        return float(abs(one - other))
    pairs = zip(*answers, strict=False)
    place = next((n for n, (one, other) in enumerate(pairs) if one != other), None)
    if place is None:  # one goes on where the other has ended
        return float("inf")
    return float(abs(logprobs[0][place] - logprobs[1][place]))


def _logprobs(logits: Logits, answer: Sequence[int]) -> NDArray[np.float64]:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(rows, np.array(answer)[:, None], 1)[:, 0]
    result: NDArray[np.float64] = chosen - np.log(np.exp(rows).sum(axis=1))
    return result
