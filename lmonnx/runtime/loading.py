"""A bundle's folder → the pipeline that answers its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Task
from lmonnx.errors import InputError
from lmonnx.runtime.generate.capacity import CACHE_BYTES, Capacity
from lmonnx.runtime.pipelines import GENERATORS, PIPELINES, REWRITERS, SAME_GRAPHS
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
    context: int | None = None,
    slots: int | None = None,
    cache_bytes: int | None = None,
    draft: str | Path | Any = None,
    int8_prompts: bool | None = None,
) -> Any:
    """Open a bundle and load it for answering; the bundle's task says which pipeline it is.

    Args:
        path: The bundle's folder.
        task: Another task of the same graph: a sequence classifier also serves
            zero-shot-classification (if trained on NLI) and text-ranking (if it has one label);
            translation, summarization and text2text-generation serve each other.
        providers: onnxruntime's execution providers, in order of preference.
        threads: Threads a call may use; None takes what `lmonnx tune` found best here, else what
            the cgroup's quota allows.
        max_tokens: Tokens of a batch, padding included; None is what was tuned, else 512, or
            256 where each thread has its own (see SessionConfig.thread_per_batch).
        long: What to do with text longer than the model: "window", "max", "truncate" or "error";
            None is the task's own rule.
        verify: Hash every file first; False is for a bundle that was checked already.
        context: For decoders: the most tokens of prompt and completion together; for
            encoder-decoders: of the answer; None is the model's own, or what `cache_bytes` allows.
        slots: For both: how many sequences run at once (a beam is one); None is 8 for decoders and
            80 for encoder-decoders, or what `cache_bytes` allows.
        cache_bytes: For both: the most memory of their keys and values, 2 GiB unasked; it is
            taken as it is used.
        draft: For decoders: a smaller one of the same tokenizer, as a bundle's folder or loaded,
            which guesses ahead; the answers stay the same, but for near-ties of integers.
        int8_prompts: For decoders of 4 bits: read prompts by int8 products of the same weights, two
            to three times as fast, for a byte of memory a weight; None does so for bundles of at
            most 256 MiB.

    Raises:
        BundleError: The bundle is missing, damaged, unsafe or of a newer format.
        UnsupportedError: A provider was asked for that is not there.
        InputError: An option is wrong, or the bundle is not for `task`.
    """
    bundle = Bundle.open(path, verify=verify)
    names = (providers,) if isinstance(providers, str) else tuple(providers)
    config = replace(choose(bundle, names, threads, max_tokens), int8_prompts=int8_prompts)
    served = _task(bundle, task)
    ours: dict[str, Any] = {"max_tokens": max_tokens, "long": long}
    theirs: dict[str, Any] = {
        "context": context,
        "slots": slots,
        "cache_bytes": cache_bytes,
        "draft": draft,
        "int8_prompts": int8_prompts,
    }
    generates = served in GENERATORS or served in REWRITERS
    unfit = ours if generates else theirs
    if served in REWRITERS:
        unfit |= {"draft": draft, "int8_prompts": int8_prompts}
    if given := [name for name, value in unfit.items() if value is not None]:
        raise InputError(f"{given[0]} means nothing for {served}; leave it out")
    if not generates:
        return PIPELINES[served](bundle, config, long=long)
    capacity = Capacity(context, slots, CACHE_BYTES if cache_bytes is None else cache_bytes)
    if served in REWRITERS:
        return REWRITERS[served](bundle, config, capacity=capacity)
    guide = Bundle.open(draft, verify=verify) if isinstance(draft, str | Path) else draft
    return GENERATORS[served](bundle, config, capacity=capacity, draft=guide)


def _task(bundle: Bundle, asked: Task | str | None) -> Task:
    own = bundle.manifest.task
    if asked is None or asked == own:
        return own
    if not any(asked in tasks and own in tasks for tasks in SAME_GRAPHS):
        raise InputError(f"{bundle.path} is for {own}, not for {asked!s:.60}; export it for that")
    return Task(asked)
