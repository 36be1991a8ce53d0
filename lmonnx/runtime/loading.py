"""A bundle's folder → the pipeline that answers its task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Task
from lmonnx.errors import InputError
from lmonnx.runtime.pipelines import PIPELINES, SAME_GRAPH
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tokenizer import Long
from lmonnx.runtime.tuned import choose


def load(
    path: str | Path,
    *,
    task: Task | str | None = None,
    providers: Sequence[str] = (CPU,),
    threads: int | None = None,
    max_tokens: int | None = None,
    long: Long | str | None = None,
    verify: bool = True,
) -> Any:
    """Open a bundle and load it for answering; the bundle's task says which pipeline it is.

    Args:
        path: The bundle's folder.
        task: Another task of the same graph: a sequence classifier also serves
            zero-shot-classification (if trained on NLI) and text-ranking (if it has one label).
        providers: onnxruntime's execution providers, in order of preference.
        threads: Threads a call may use; None takes what `lmonnx tune` found best here, else what
            the cgroup's quota allows.
        max_tokens: Tokens of a batch, padding included; None is what was tuned, else 512, or
            256 where each thread has its own (see SessionConfig.thread_per_batch).
        long: What to do with text longer than the model: "window", "max", "truncate" or "error";
            None is the task's own rule.
        verify: Hash every file first; False is for a bundle that was checked already.

    Raises:
        BundleError: The bundle is missing, damaged, unsafe or of a newer format.
        UnsupportedError: A provider was asked for that is not there.
        InputError: An option is wrong, or the bundle is not for `task`.
    """
    bundle = Bundle.open(path, verify=verify)
    names = (providers,) if isinstance(providers, str) else tuple(providers)
    config = choose(bundle, names, threads, max_tokens)
    return PIPELINES[_task(bundle, task)](bundle, config, long=long)


def _task(bundle: Bundle, asked: Task | str | None) -> Task:
    own = bundle.manifest.task
    if asked is None or asked == own:
        return own
    if asked not in SAME_GRAPH or own not in SAME_GRAPH:
        raise InputError(f"{bundle.path} is for {own}, not for {asked!s:.60}; export it for that")
    return Task(asked)
