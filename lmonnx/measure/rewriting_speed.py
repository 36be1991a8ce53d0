"""An encoder-decoder → how fast it answers one text, and many, greedily and with beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from lmonnx.errors import InputError
from lmonnx.measure.sentences import gate_sentences
from lmonnx.measure.speed import peak_mib
from lmonnx.progress import Progress, silent, track
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.text_to_text import TextToText
from lmonnx.runtime.session import CPU

BATCHES = (1, 16, 100)
BEAMS = (1, 4)


@dataclass(frozen=True, slots=True)
class Rate:
    """Texts a second, and tokens written a second, where `texts` are given in one call."""

    beams: int
    texts: int
    texts_per_s: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class RewritingSpeed:
    """How fast one encoder-decoder answers on this machine; of each rate the best of `rounds`.

    Texts are answered as the model would, or with `new_tokens` each, whatever it would stop at.
    `peak_mib` is this process's own, imports included; None where the system does not say.
    """

    new_tokens: int | None
    threads: int
    rounds: int
    load_ms: float
    rates: tuple[Rate, ...]
    peak_mib: float | None


def bench_rewriting(
    path: Path,
    texts: Sequence[str] = (),
    *,
    new_tokens: int | None = None,
    rounds: int = 5,
    batches: Sequence[int] = BATCHES,
    beams: Sequence[int] = BEAMS,
    threads: int | None = None,
    providers: Sequence[str] = (CPU,),
    source_lang: str | None = None,
    target_lang: str | None = None,
    prefix: str | None = None,
    progress: Progress = silent,
) -> RewritingSpeed:
    """Load an encoder-decoder and time it through the whole pipeline, strings in and out.

    Args:
        path: The bundle's folder.
        texts: What to answer; without any, sentences that come with lmonnx.
        new_tokens: That each text is answered with; None is what the model wants.
        rounds: How often each rate is taken, each time with other texts.
        batches: How many texts a call has, in turn.
        beams: How many beams a search has, in turn; 1 is greedy.
        threads: Threads a call may use; None takes what the cgroup's quota allows.
        providers: onnxruntime's execution providers.
        source_lang: The texts' language, where the model has several.
        target_lang: The answers' language.
        prefix: What stands before every text; None is the task's own.
        progress: Told after each round.

    Raises:
        InputError: A count is below 1, or an option is not for the model.
    """
    if min(rounds, *batches, *beams, new_tokens or 1) < 1:
        raise InputError("rounds, batches, beams and new tokens are counts; give at least 1")
    given = [text for text in texts or gate_sentences() if text.strip()]
    if not given:
        raise InputError("there is no text to answer; give at least one")
    start = perf_counter()
    model = load(path, threads=threads, providers=providers)
    opened = perf_counter() - start
    if not isinstance(model, TextToText):
        raise InputError(f"{path} is no encoder-decoder")
    ask = _Ask(model, given, source_lang, target_lang, prefix)
    with model:
        rates = tuple(
            _rate(ask, _params(model, beam, new_tokens), count, rounds, progress)
            for beam in beams
            for count in batches
        )
        return RewritingSpeed(
            new_tokens=new_tokens,
            threads=model.config.threads_used,
            rounds=rounds,
            load_ms=opened * 1000,
            rates=rates,
            peak_mib=peak_mib(),
        )


def _params(model: TextToText, beams: int, new_tokens: int | None) -> SamplingParams:
    params = replace(model.built_defaults, num_beams=beams, temperature=0.0, n=1)
    if new_tokens is None:
        return params
    return replace(params, max_new_tokens=new_tokens, min_new_tokens=new_tokens, ignore_eos=True)


@dataclass(slots=True)
class _Ask:
    """Texts in turn, so that every call has others."""

    model: TextToText
    texts: Sequence[str]
    source_lang: str | None
    target_lang: str | None
    prefix: str | None
    taken: int = 0

    def __call__(self, count: int, params: SamplingParams) -> tuple[float, int]:
        """Answer the next so many texts; return the seconds and the tokens written."""
        places = range(self.taken, self.taken + count)
        texts = [self.texts[place % len(self.texts)] for place in places]
        self.taken += count
        start = perf_counter()
        found = self.model(
            texts,
            params,
            source_lang=self.source_lang,
            target_lang=self.target_lang,
            prefix=self.prefix,
        )
        return perf_counter() - start, sum(answer.completion_tokens for answer in found)


def _rate(ask: _Ask, params: SamplingParams, count: int, rounds: int, progress: Progress) -> Rate:
    ask(count, params)  # warm-up: arenas grow, lazy kernels load
    name = f"{count} texts, {params.num_beams} beams"
    taken = [ask(count, params) for _ in track(range(rounds), name, progress)]
    return Rate(
        beams=params.num_beams,
        texts=count,
        texts_per_s=max(count / seconds for seconds, _ in taken),
        tokens_per_s=max(tokens / seconds for seconds, tokens in taken),
    )
