"""A bundle's folder → the pipeline that answers its task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.runtime.pipelines import PIPELINES
from lmonnx.runtime.pipelines.text_classification import TextClassifier
from lmonnx.runtime.session import CPU, SessionConfig
from lmonnx.runtime.tokenizer import Long


def load(
    path: str | Path,
    *,
    providers: Sequence[str] = (CPU,),
    threads: int | None = None,
    long: Long | str = Long.WINDOW,
    verify: bool = True,
) -> TextClassifier:
    """Open a bundle and load it for answering.

    Args:
        path: The bundle's folder.
        providers: onnxruntime's execution providers, in order of preference.
        threads: Threads a call may use; None takes what the cgroup's quota allows.
        long: What to do with text longer than the model: "window", "truncate" or "error".
        verify: Hash every file first; False is for a bundle that was checked already.

    Raises:
        BundleError: The bundle is missing, damaged, unsafe or of a newer format.
        UnsupportedError: A provider was asked for that is not there.
        InputError: An option is wrong.
    """
    bundle = Bundle.open(path, verify=verify)
    names = (providers,) if isinstance(providers, str) else tuple(providers)
    config = SessionConfig(providers=names, threads=threads)
    return PIPELINES[bundle.manifest.task](bundle, config, long=long)
