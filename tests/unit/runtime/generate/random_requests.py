"""Random requests, some cut short and some wrong, and what came of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

from lmonnx.errors import InputError
from lmonnx.runtime.generate.params import SamplingParams

WORDS = (
    "the a little girl boy dog saw big red ball and played in park with her friend happy".split()
)
GREEDY, SAMPLED, BEAMS, CUT, WRONG = "greedy", "sampled", "beams", "cut", "wrong"
REFUSED = "refused"
KINDS = (GREEDY,) * 6 + (SAMPLED,) * 2 + (BEAMS, CUT, CUT, WRONG)


@dataclass(frozen=True)
class Request:
    """A prompt with options; of a stream that is CUT `chunks` are read."""

    kind: str
    prompt: Any
    options: dict[str, Any] = field(default_factory=dict)
    chunks: int = 0


def requests(count: int, context: int, *, seed: int = 0) -> list[Request]:
    """Return `count` requests, many of which begin alike."""
    dice = random.Random(seed)
    starts = [sentence(dice, dice.randint(1, 12)) for _ in range(6)]
    return [one(dice, starts, context) for _ in range(count)]


def sentence(dice: random.Random, words: int) -> str:
    return " ".join(dice.choices(WORDS, k=words))


def one(dice: random.Random, starts: Sequence[str], context: int) -> Request:
    kind = dice.choice(KINDS)
    prompt = f"{dice.choice(starts)} {sentence(dice, dice.randint(0, 8))}"[: context // 2]
    options: dict[str, Any] = {"max_new_tokens": dice.randint(1, context // 3)}
    if dice.random() < 0.3:
        options["stop"] = (dice.choice(WORDS), dice.choice(".,\x1b"))
    if dice.random() < 0.2:
        options["repetition_penalty"] = 1.2
    if kind in (GREEDY, CUT) and dice.random() < 0.3:
        options["prompt_lookup"] = dice.randint(1, 8)
    if kind == SAMPLED:
        options |= {"temperature": 1.0, "top_p": 0.9, "seed": dice.randint(0, 99)}
        options["n"] = dice.randint(1, 3)
    if kind == BEAMS:
        options |= {"num_beams": dice.randint(2, 4), "max_new_tokens": dice.randint(1, 12)}
        options.pop("stop", None)
    if kind == WRONG:
        return dice.choice(
            [
                Request(kind, "word " * context),
                Request(kind, prompt, {"max_new_tokens": 10 * context}),
                Request(kind, prompt, {"num_beams": 60}),
                Request(kind, prompt, {"temperature": -1.0}),
                Request(kind, prompt, {"temperature": float("nan")}),
                Request(kind, prompt, {"stop": ("x",) * 10_000}),
                Request(kind, [2**40]),
                Request(kind, []),
                Request(kind, "\ud800"),
            ]
        )
    return Request(kind, prompt, options, dice.randint(0, 5))


def answer(model: Any, request: Request) -> Any:
    """Return token ids and texts; REFUSED for what is wrong, the beginning of what is cut."""
    try:
        params = SamplingParams(**request.options)
        if request.kind == CUT:
            stream = model.stream(request.prompt, params)
            text = "".join(chunk.text for chunk in islice(stream, request.chunks))
            stream.close()
            return text
        return [(c.token_ids, c.text, c.finish_reason) for c in model([request.prompt], params)]
    except InputError:
        return REFUSED


def run(
    model: Any,
    asked: Sequence[Request],
    *,
    threads: int = 6,
    done: Callable[[int], None] = lambda count: None,
    keep: Callable[[Any], Any] = lambda answer: answer,
) -> list[Any]:
    """Return what is to `keep` of the answers to requests that several threads send at once."""
    found: list[Any] = [None] * len(asked)
    places, lock, ended = iter(range(len(asked))), Lock(), 0

    def work() -> None:
        nonlocal ended
        while True:
            with lock:
                place = next(places, None)
            if place is None:
                return
            found[place] = keep(answer(model, asked[place]))
            with lock:
                ended += 1
                done(ended)

    with ThreadPoolExecutor(threads) as pool:
        for worker in [pool.submit(work) for _ in range(threads)]:
            worker.result()
    return found


def differences(asked: Sequence[Request], found: Sequence[Any], alone: Sequence[Any]) -> list[int]:
    """Return which answers are not those of requests that ran alone."""
    return [
        place
        for place, (request, one, other) in enumerate(zip(asked, found, alone, strict=True))
        if one != other or (request.kind == WRONG) != (one == REFUSED)
    ]
