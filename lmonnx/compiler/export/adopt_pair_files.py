"""An encoder-decoder's ONNX files in a folder, in optimum's layout → its three graphs.

    encoder_model.onnx
    decoder_model_merged.onnx, or decoder_model.onnx and decoder_with_past_model.onnx

in the folder itself or in onnx/, each with one suffix such as `_int8`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export import adopt
from lmonnx.compiler.export.adopt_branch import take_branch
from lmonnx.compiler.export.adopt_opset import raise_opset
from lmonnx.compiler.graph import IR_VERSION, opset_of
from lmonnx.errors import UnsupportedError

_STEMS = (
    ("encoder_model", "decoder_model_merged", "decoder_model_merged"),
    ("encoder_model", "decoder_model", "decoder_with_past_model"),
)


@dataclass(frozen=True, slots=True)
class PairFiles:
    """The files of one encoder-decoder; `first` and `later` are one where they are merged."""

    encoder: Path
    first: Path
    later: Path

    @property
    def folder(self) -> Path:
        """Return the folder that all of them are in."""
        return self.encoder.parent


@dataclass(frozen=True, slots=True)
class PairGraphs:
    """The graphs of an encoder-decoder: the decoder's first step, and its later ones."""

    encoder: onnx.ModelProto
    first: onnx.ModelProto
    later: onnx.ModelProto


def find_graphs(checkpoint: Checkpoint) -> dict[str, PairFiles]:
    """Return the encoder-decoders that may be adopted: suffix → files, the best first."""
    found = {suffix: next(_candidates(checkpoint.path, suffix), None) for suffix in adopt.SUFFIXES}
    return {suffix: files for suffix, files in found.items() if files is not None}


def _candidates(folder: Path, suffix: str) -> Iterator[PairFiles]:
    end = f"_{suffix}.onnx" if suffix else ".onnx"
    for place in adopt.FOLDERS:
        for stems in _STEMS:
            paths = [folder / place / f"{stem}{end}" for stem in stems]
            if all(path.is_file() for path in paths):
                yield PairFiles(*paths)


def pick_files(checkpoint: Checkpoint, variant: str | None) -> PairFiles:
    """Return the files to adopt: of a variant, or else the best there are.

    Raises:
        UnsupportedError: There are none; the message lists what is needed and what is there.
    """
    found = find_graphs(checkpoint)
    if variant is not None:
        for files in _candidates(checkpoint.path, variant.removeprefix("_")):
            return files
    elif found:
        return next(iter(found.values()))
    end = f"_{variant.removeprefix('_')}" if variant else ""
    folders = (checkpoint.path / place for place in adopt.FOLDERS)
    there = sorted({path.name for folder in folders for path in folder.glob("*.onnx")})
    raise UnsupportedError(
        f"{checkpoint.repo} has no encoder-decoder to adopt, which is encoder_model{end}.onnx with "
        f"decoder_model_merged{end}.onnx, or with decoder_model{end}.onnx and "
        f"decoder_with_past_model{end}.onnx (found: {', '.join(there) or 'none'})"
    )


def read_graphs(checkpoint: Checkpoint, files: PairFiles) -> PairGraphs:
    """Read the graphs without the weights outside them.

    Raises:
        UnsupportedError: They are of different opsets, or of one that cannot be raised.
        StageError: A file is damaged or takes weights from outside the folder.
    """
    encoder = _read(checkpoint, files.encoder)
    first, later = _read(checkpoint, files.first), _read(checkpoint, files.later)
    if files.first == files.later:
        take_branch(first, files.first.name, cached=False)
        take_branch(later, files.later.name)
    opsets = {opset_of(model) for model in (encoder, first, later)}
    if len(opsets) > 1:
        raise UnsupportedError(
            f"the graphs beside {files.encoder.name} are of the opsets "
            f"{' and '.join(map(str, sorted(opsets)))}, must be of one; export the model from its "
            "checkpoint instead"
        )
    return PairGraphs(encoder, first, later)


def _read(checkpoint: Checkpoint, path: Path) -> onnx.ModelProto:
    model = adopt.read_graph(checkpoint, path)
    adopt.check_versions(model, path)
    raise_opset(model, path.name)
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model
