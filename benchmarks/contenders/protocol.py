"""The contenders' side of the line: one JSON object a line on standard input and output.

    {"do": "prepare", "order": {…}}        → {"variants": […], "versions": {…}}
    {"do": "warm", "variant": "batch 8"}   → {}
    {"do": "round", "variant": "batch 8"}  → {"seconds": [1.2], "labels": […], "logits": […],
                                              "vectors": "base64 of (N, E) float32"}
    {"do": "quit"}                         → ends

An error is answered by {"error": "…"}. Standard library only: it runs in every environment.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

WARM_ITEMS = 64
PACKAGES = (
    "ctranslate2",
    "fastembed",
    "llama_cpp_python",
    "lmonnx",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-genai",
    "optimum",
    "optimum-onnx",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)


@dataclass(frozen=True, slots=True)
class Order:
    """What a contender is asked to answer, with what."""

    kind: str  # one of workload.KINDS
    model: str  # the checkpoint's folder
    items: list[Any]
    threads: int
    repeats: int  # how often a round answers all items
    cache: str  # a folder for what takes long to make
    bundle: str = ""
    graphs: dict[str, str] = field(default_factory=dict)  # float32 ONNX files by who wrote them
    max_length: int = 0  # where everyone cuts a text, in tokens with the special ones; 0: unstated


@dataclass(frozen=True, slots=True)
class Answers:
    """A label for each item, and the logits where the system gives them; or vectors, (N, E)."""

    labels: list[str] = field(default_factory=list)
    logits: list[list[float]] | None = None
    vectors: Any = None  # a numpy array


class Contender(ABC):
    """A system under measurement."""

    @abstractmethod
    def prepare(self, order: Order) -> Sequence[str]:
        """Load the model; return the names of the variants to be measured."""

    @abstractmethod
    def answer(self, variant: str, items: list[Any]) -> Answers:
        """Answer every item; this is what is timed."""


def made(target: Path, make: Callable[[Path], object]) -> Path:
    """Return a file or folder, made first where it is not there; one half made is never taken."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.stem}.draft{target.suffix}")
        make(draft)
        draft.rename(target)
    return target


def label_names(model: str) -> list[str]:
    """Return the labels of a checkpoint by their index."""
    config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    return [config["id2label"][str(index)] for index in range(len(config["id2label"]))]


def named(logits: Any, labels: Sequence[str]) -> Answers:
    """Return the answers that an array of logits, (B, C), means."""
    return Answers([labels[index] for index in logits.argmax(axis=-1)], logits.tolist())


def serve(contender: Contender) -> None:
    """Carry out what standard input asks, until it says quit or ends."""
    # What libraries print must not get between the lines: they write to standard error instead.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    order: Order | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            return
        try:
            if request["do"] == "prepare":
                order = Order(**request["order"])
                variants = list(contender.prepare(order))
                reply: dict[str, Any] = {"variants": variants, "versions": versions()}
            else:
                reply = _run(contender, order, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side must hear of it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


def versions() -> dict[str, str]:
    """Return the versions of the packages here that have a part in the result."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _run(contender: Contender, order: Order | None, request: dict[str, Any]) -> dict[str, Any]:
    if order is None:
        raise RuntimeError("not prepared")
    if request["do"] == "warm":
        contender.answer(request["variant"], order.items[:WARM_ITEMS])
        return {}
    seconds = []
    for _ in range(order.repeats):
        start = time.perf_counter()
        answers = contender.answer(request["variant"], order.items)
        seconds.append(round(time.perf_counter() - start, 6))
    return {
        "seconds": seconds,
        "labels": answers.labels,
        "logits": answers.logits,
        "vectors": _packed(answers.vectors),
    }


def _packed(vectors: Any) -> str | None:
    if vectors is None:
        return None
    return base64.b64encode(vectors.astype("<f4").tobytes()).decode("ascii")
