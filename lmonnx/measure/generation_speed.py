"""A decoder → how fast it reads a prompt, writes the answer, and serves several requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from lmonnx.errors import InputError
from lmonnx.measure.sentences import gate_sentences
from lmonnx.measure.speed import peak_mib
from lmonnx.progress import Progress, silent, track
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.text_generation import TextGenerator
from lmonnx.runtime.session import CPU

TOGETHER = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Together:
    """New tokens a second of all `requests` that run at once, from the first step to the last.

    `scaling` is that over the figure of one request alone.
    """

    requests: int
    tokens_per_s: float
    scaling: float


@dataclass(frozen=True, slots=True)
class GenerationSpeed:
    """How fast one decoder answers on this machine; of each figure the best of `rounds`.

    `ttft_ms` is from the request to its first token, the prompt read from its start;
    `inter_token_p50_ms` and `_p99_ms` are between later ones of a request alone. `peak_mib` is
    this process's own, imports included; None where the system does not say.
    """

    prompt_tokens: int
    new_tokens: int
    threads: int
    rounds: int
    load_ms: float
    ttft_ms: float
    prefill_tokens_per_s: float
    inter_token_p50_ms: float
    inter_token_p99_ms: float
    decode_tokens_per_s: float
    together: tuple[Together, ...]
    peak_mib: float | None


def bench_generation(
    path: Path,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rounds: int = 5,
    together: Sequence[int] = TOGETHER,
    threads: int | None = None,
    providers: Sequence[str] = (CPU,),
    progress: Progress = silent,
) -> GenerationSpeed:
    """Load a decoder and time greedy requests, each of a prompt that was not read before.

    Args:
        path: The bundle's folder.
        prompt_tokens: Of each request, cut from sentences that come with lmonnx.
        new_tokens: That each request is answered with, whatever the model would stop at.
        rounds: How often each figure is taken.
        together: How many requests run at once, in turn; the cache has a slot for each.
        threads: Threads that a step uses; None takes what the cgroup's quota allows.
        providers: onnxruntime's execution providers.
        progress: Told after each round.

    Raises:
        InputError: A count is below 1, or prompt and answer do not fit the model.
    """
    for name, count in (("prompt", prompt_tokens), ("new", new_tokens - 1), ("rounds", rounds)):
        if count < 1:
            raise InputError(f"{name} tokens and rounds are too few to time; give more")
    start = perf_counter()
    model = load(path, threads=threads, providers=providers, slots=max(together))
    opened = perf_counter() - start
    if not isinstance(model, TextGenerator):
        raise InputError(f"{path} is no decoder")
    with model:
        prompts = _Prompts(model, prompt_tokens)
        params = SamplingParams(max_new_tokens=new_tokens, ignore_eos=True)
        _alone(model, prompts.take(1)[0], params)  # warm-up: arenas grow, lazy kernels load
        turns = track(range(rounds), "one request", progress)
        alone = [_alone(model, prompts.take(1)[0], params) for _ in turns]
        first = min(times[0] for times in alone)
        gaps = min((np.diff(times) for times in alone), key=np.sum)
        rates = []
        for count in together:
            turns = track(range(rounds), f"{count} requests", progress)
            rates.append(max(_all(model, prompts.take(count), params) for _ in turns))
        return GenerationSpeed(
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            threads=model.config.threads_used,
            rounds=rounds,
            load_ms=opened * 1000,
            ttft_ms=first * 1000,
            prefill_tokens_per_s=prompt_tokens / first,
            inter_token_p50_ms=float(np.percentile(gaps, 50)) * 1000,
            inter_token_p99_ms=float(np.percentile(gaps, 99)) * 1000,
            decode_tokens_per_s=len(gaps) / float(np.sum(gaps)),
            together=tuple(
                Together(count, rate, rate / rates[0])
                for count, rate in zip(together, rates, strict=True)
            ),
            peak_mib=peak_mib(),
        )


class _Prompts:
    """Token ids of real text, no prompt of which begins like another."""

    def __init__(self, model: TextGenerator, length: int) -> None:
        text = " ".join(str(sentence) for sentence in gate_sentences())
        self._ids = model.tokenizer.prompt(text)
        self._length = length
        self._next = 0

    def take(self, count: int) -> list[list[int]]:
        """Return `count` prompts that were not taken before, as far as the text goes."""
        found = []
        for _ in range(count):
            shifted = np.roll(self._ids, -self._next)
            found.append([int(index) for index in np.resize(shifted, self._length)])
            self._next += 7  # a step of its own, so that turns of the text differ too
        return found


def _alone(model: TextGenerator, prompt: list[int], params: SamplingParams) -> list[float]:
    """Return when each token came, in seconds after the request."""
    start, times = perf_counter(), []
    for chunk in model.stream(prompt, params):
        times += [perf_counter() - start] * len(chunk.token_ids)
    return times


def _all(model: TextGenerator, prompts: list[list[int]], params: SamplingParams) -> float:
    start = perf_counter()
    made = sum(found.completion_tokens for found in model(prompts, params))
    return made / (perf_counter() - start)
