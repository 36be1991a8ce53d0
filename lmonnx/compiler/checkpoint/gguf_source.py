"""A .gguf file → a folder of its configuration and tokenizer, and its tensors by name."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmonnx.compiler.checkpoint.gguf_config import make_config
from lmonnx.compiler.checkpoint.gguf_fields import Fields
from lmonnx.compiler.checkpoint.gguf_header import MAGIC, GgufHeader, read_header
from lmonnx.compiler.checkpoint.gguf_model import Source
from lmonnx.compiler.checkpoint.gguf_names import restored_tensors
from lmonnx.compiler.checkpoint.gguf_tensor import QuantizedTensor, are_copies, open_tensors
from lmonnx.compiler.checkpoint.gguf_tokenizer import read_text
from lmonnx.compiler.checkpoint.stored import StoredTensor
from lmonnx.compiler.checkpoint.weights import Tensor
from lmonnx.errors import StageError, UnsupportedError

SUFFIX = ".gguf"
_LICENSE = re.compile(r"[\w.+-]{1,64}")


class GgufSource:
    """A GGUF file as a checkpoint: files that other code reads, and tensors read when asked for.

    The folder is temporary and goes with this object.

    Attributes:
        path: The file.
        folder: Holds config.json, generation_config.json, tokenizer.json and their kin.
        config: config.json.
        tensors: By transformers' names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        architecture = _architecture(header)
        stored = _without_copied_head(open_tensors(header))
        source = Source(Fields(header, architecture), stored)
        config = make_config(architecture, source)
        self.tensors: Mapping[str, Tensor] = restored_tensors(path, architecture, stored, config)
        context = config.get("max_position_embeddings") or config["n_positions"]
        text = read_text(Fields(header, "tokenizer"), architecture, context=context)
        if text.tokens > config["vocab_size"]:
            raise StageError(
                f"{path} has {text.tokens} tokens and {config['vocab_size']} embeddings; tokenizer"
                " and weights are not of one model"
            )
        self.config: dict[str, Any] = {**config, **text.ids}
        self.folder = Path(tempfile.mkdtemp(prefix="lmonnx-gguf-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        for name, value in {"config.json": self.config, **text.files}.items():
            written = json.dumps(value, ensure_ascii=False)
            (self.folder / name).write_text(written, encoding="utf-8")
        stated = header.metadata.get("general.license")
        if isinstance(stated, str) and _LICENSE.fullmatch(stated):
            (self.folder / "README.md").write_text(f"---\nlicense: {stated}\n---\n")


def find_gguf(path: Path) -> Path | None:
    """Return the GGUF file that a path means: itself, or the only one in a folder.

    Raises:
        StageError: A folder holds several.
    """
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:20])
            raise StageError(f"{path} holds several GGUF files; give the path of one: {names}")
        return found[0] if found else None
    if not path.is_file():
        return None
    if path.suffix.lower() == SUFFIX:
        return path
    with path.open("rb") as file:  # the hub's cache names files by their hash
        return path if file.read(len(MAGIC)) == MAGIC else None


def _architecture(header: GgufHeader) -> str:
    general = Fields(header, "general")
    kind = general.text("type", "model")
    if kind != "model":
        raise UnsupportedError(f"{header.path} is a GGUF of type {kind!r:.40}, not of a model")
    parts = Fields(header, "split").integer("count", 1, least=0)
    if parts > 1:
        raise UnsupportedError(
            f"{header.path} is one of {parts} parts; join them first: llama-gguf-split --merge"
            f" {header.path.name} whole.gguf"
        )
    return general.text("architecture")


def _without_copied_head(
    tensors: Mapping[str, StoredTensor | QuantizedTensor],
) -> Mapping[str, Tensor]:
    """Leave out a head that is the embeddings' table again, as old converters wrote it."""
    table, head = tensors.get("token_embd.weight"), tensors.get("output.weight")
    if table is None or head is None or not are_copies(table, head):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if tensor is not head}
