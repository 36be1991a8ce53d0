"""sentence-transformers' own files, of its versions 2 to 6: which modules follow the encoder.

Their classes are told by the last name of `type`, and no code is imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lmonnx.bundle.folder import is_plain_name
from lmonnx.bundle.manifest import Pooling
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.checkpoint.json_object import MAX_BYTES
from lmonnx.errors import StageError, UnsupportedError

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
# In the order they are looked for; the names are of older versions' encoder classes.
TRANSFORMER_SETTINGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_PACKAGE = "sentence_transformers."

POOLING_MODES: Mapping[str, Pooling] = {
    "cls": Pooling.CLS,
    "max": Pooling.MAX,
    "mean": Pooling.MEAN,
    "mean_sqrt_len_tokens": Pooling.MEAN_SQRT,
    "weightedmean": Pooling.WEIGHTED_MEAN,
    "lasttoken": Pooling.LAST,
}
# Until version 5 a boolean a mode; several are joined in this order.
_POOLING_FLAGS: Mapping[str, Pooling] = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_max_tokens": Pooling.MAX,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_mean_sqrt_len_tokens": Pooling.MEAN_SQRT,
    "pooling_mode_weightedmean_tokens": Pooling.WEIGHTED_MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json: the class's own name, and the folder of its files."""

    kind: str
    path: str

    def file(self, name: str) -> str:
        """Return the path of one of its files in the checkpoint."""
        return (PurePosixPath(self.path) / name).as_posix()


def read_modules(checkpoint: Checkpoint) -> tuple[Module, ...]:
    """Return what modules.json lists, () where there is none.

    Raises:
        StageError: It is damaged, or names a folder outside the checkpoint.
        UnsupportedError: A module is not of sentence-transformers itself.
    """
    path = checkpoint.path / MODULES
    if not path.is_file():
        return ()
    if path.stat().st_size > MAX_BYTES:
        raise StageError(f"{path} is over {MAX_BYTES // 2**20} MiB; it is no list of modules")
    try:
        listed = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path} is not JSON ({error!s:.100}); download it again") from error
    if not isinstance(listed, list) or not listed:
        raise StageError(f"{path} is not a list of modules; download it again")
    return tuple(_module(entry, str(path)) for entry in listed)


def _module(entry: object, where: str) -> Module:
    match entry:
        case {"type": str(kind), "path": str(path)}:
            pass
        case _:
            raise StageError(f"{where}: an entry has no type or no path; download it again")
    if path and not is_plain_name(path):
        raise StageError(f"{where} names the folder {path!r:.100}, outside the checkpoint")
    if not kind.startswith(_PACKAGE):
        raise UnsupportedError(
            f"{where}: the module {kind!r:.100} is code of the checkpoint's own, which is not run"
        )
    return Module(kind.rpartition(".")[2], path)


def transformer_file(checkpoint: Checkpoint) -> str | None:
    """Return the file of the encoder's settings, None where sentence-transformers reads none."""
    modules = read_modules(checkpoint)
    if not modules:
        return None
    names = (modules[0].file(name) for name in TRANSFORMER_SETTINGS)
    return next((name for name in names if checkpoint.json_file(name)), None)


def transformer_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Return the encoder's settings: max_seq_length, do_lower_case."""
    name = transformer_file(checkpoint)
    return (checkpoint.json_file(name) if name else None) or {}


def max_seq_length(checkpoint: Checkpoint) -> int | None:
    """Return where sentence-transformers cuts a text, in tokens, None where it does not say.

    Raises:
        StageError: It is no positive number.
    """
    settings = transformer_settings(checkpoint)
    processing = settings.get("processing_kwargs")
    text = processing.get("text") if isinstance(processing, dict) else None
    stated = settings.get("max_seq_length")
    if stated is None and isinstance(text, dict):
        stated = text.get("max_length")
    if stated is None:
        return None
    if type(stated) is not int or stated < 1:
        name = transformer_file(checkpoint)
        raise StageError(f"{name}: max_seq_length is {stated!r:.40}, must be a positive number")
    return stated


def pooling_modes(config: Mapping[str, Any], where: str) -> tuple[Pooling, ...]:
    """Return the modes that a pooling module's config.json names, in the order they are joined.

    Raises:
        StageError: A flag is no boolean.
        UnsupportedError: There is no such mode.
    """
    named = config.get("pooling_mode")
    if named is None:
        flags = {flag: config.get(flag, False) for flag in _POOLING_FLAGS}
        if wrong := [flag for flag, value in flags.items() if not isinstance(value, bool)]:
            raise StageError(f"{where}: {wrong[0]} is no boolean; download it again")
        return tuple(_POOLING_FLAGS[flag] for flag, on in flags.items() if on) or (Pooling.MEAN,)
    modes = named if isinstance(named, list) and named else [named]
    for mode in modes:
        if not isinstance(mode, str) or mode not in POOLING_MODES:
            known = ", ".join(POOLING_MODES)
            raise UnsupportedError(f"{where}: the pooling mode {mode!r:.60} is none of {known}")
    return tuple(POOLING_MODES[mode] for mode in modes)
