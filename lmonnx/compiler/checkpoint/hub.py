"""A hub id → a folder of the local Hugging Face cache with the files an export needs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from lmonnx.errors import StageError

_TEXT = re.compile(r"[^/]+\.(json|txt|model|spm|jinja)|README\.md|1_Pooling/.+")
# What sentence-transformers puts behind the encoder: 2_Dense/model.safetensors.
_MODULES = re.compile(r"[1-9]\d?_\w+/(config\.json|model\.safetensors|pytorch_model\.bin)")
_INDEX = re.compile(r".*\.index\.json")
_WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin|pytorch_model\.bin\.index\.json"),
    re.compile(r".+\.onnx([_.]data(_\d+)?)?"),
)


def fetch(repo: str, revision: str | None, *, progress: bool) -> tuple[Path, str]:
    """Return the folder of a repository's snapshot and its commit; download what is missing.

    HF_HOME, HF_TOKEN and HF_ENDPOINT are huggingface_hub's. With HF_HUB_OFFLINE=1, or when the hub
    does not answer, the cache does. A connection that breaks is resumed; files that are complete
    are not asked for again. The rest of a file whose process ended is resumed by huggingface_hub
    0.36, while 2.4 fetches that one file anew.

    Raises:
        StageError: No such repository or revision, no right to it, no network and nothing cached,
            or none of its files are weights.
    """
    # Imported here: huggingface_hub takes its settings from the environment once, on import.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub.errors import HTTPError, XetDownloadError  # type: ignore[attr-defined]
    except ImportError as error:
        raise StageError(
            f"{repo} is no folder here, and a download needs: pip install 'lmonnx[export]'"
        ) from error
    try:
        with _bars(show=progress):
            folder = _snapshot(repo, revision)
    # HTTPError is requests' or httpx's, as its version has it; hf_xet raises the last two.
    except (HTTPError, OSError, ValueError, XetDownloadError, RuntimeError) as error:
        raise StageError(_explained(error, repo, revision)) from error
    return folder, folder.name


def needed(files: Sequence[str]) -> list[str]:
    """Return the files of a repository that an export needs; none where none of them is a weight.

    That is configuration, tokenizer, what sentence-transformers puts behind the encoder, and one
    form of the weights: safetensors, else pytorch_model.bin, else ONNX graphs.
    """
    for pattern in _WEIGHTS:
        weights = [file for file in files if pattern.fullmatch(file)]
        if weights:
            text = [file for file in files if _TEXT.fullmatch(file) and not _INDEX.fullmatch(file)]
            return text + _modules(set(files) - {*text}) + weights
    return []


def _modules(files: Set[str]) -> list[str]:
    """Return the files of sentence-transformers' modules, of their weights one form."""
    found = sorted(file for file in files if _MODULES.fullmatch(file))
    safe = {
        file.removesuffix("model.safetensors") for file in found if file.endswith("safetensors")
    }
    return [file for file in found if file.removesuffix("pytorch_model.bin") not in safe]


def _snapshot(repo: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError,
        RevisionNotFoundError,
    )

    try:
        # Not list_repo_files, which tries for half a minute when there is no network.
        found = HfApi().model_info(repo, revision=revision).siblings or ()
    except RevisionNotFoundError:
        raise
    except (HTTPError, OSError) as unreachable:
        return _cached(repo, revision, unreachable)
    wanted = needed([file.rfilename for file in found])
    if not wanted:
        raise StageError(
            f"{repo} has no model.safetensors, pytorch_model.bin or ONNX graph; a checkpoint of"
            " TensorFlow or JAX must be saved as safetensors first, and of GGUF download the file"
            " and give its path"
        )
    patterns = [glob.escape(file) for file in wanted]
    return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))


def _cached(repo: str, revision: str | None, unreachable: Exception) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        # Only config.json is asked for: the hub cannot tell now which form of the weights it has.
        found = snapshot_download(
            repo, revision=revision, allow_patterns="config.json", local_files_only=True
        )
    except LocalEntryNotFoundError:
        raise unreachable from None
    folder = Path(found)
    names = [str(file.relative_to(folder).as_posix()) for file in folder.rglob("*")]
    if not needed(names):
        raise StageError(
            f"the cache has only a part of {repo}, without weights; run once with a network"
        ) from unreachable
    return folder


def _explained(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    detail = (str(error).strip() or type(error).__name__).splitlines()[0]
    # The first row that fits: a gated repository is also one that is not found.
    rows: list[tuple[type[Exception], str]] = [
        (
            errors.GatedRepoError,
            f"{repo} is gated: accept its licence at {hub}/{repo} and set HF_TOKEN to your token",
        ),
        (
            errors.RevisionNotFoundError,
            f"{repo} has no revision {revision!r}; its branches and tags are at {hub}/{repo}",
        ),
        (
            errors.RepositoryNotFoundError,
            f"{repo} is neither a folder here nor a repository on {hub} that you may read; check"
            " the name, or set HF_TOKEN if it is private",
        ),
        (
            errors.OfflineModeIsEnabled,
            f"{repo} is not in the cache and HF_HUB_OFFLINE forbids a download; unset it once",
        ),
        (errors.HfHubHTTPError, f"{hub} refused {repo}: {detail}"),
        (errors.HFValidationError, f"{repo} is neither a folder here nor a hub id: {detail}"),
    ]
    for kind, text in rows:
        if isinstance(error, kind):
            return text
    return (
        f"{repo} is not a folder here and could not be had from {hub}: {detail}; check network and"
        " disk and run the same again, finished files are kept"
    )


@contextmanager
def _bars(*, show: bool) -> Iterator[None]:
    """Keep huggingface_hub's bars off for the block, unless they are to be shown."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    # HF_HUB_DISABLE_PROGRESS_BARS outranks both functions, which warn when they contradict it.
    if show or are_progress_bars_disabled() or "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ:
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
