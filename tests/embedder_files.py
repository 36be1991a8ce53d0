"""sentence-transformers' files: modules.json, each module's folder, and what is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import GraphSpec, TensorSpec
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export.embedding import export_embedding
from lmonnx.errors import LmonnxError
from tests import torch_files

FROZEN = Path(__file__).parent / "golden" / "tiny-embedder"
E, OUT = 32, 5
OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
DENSE = {
    "in_features": E,
    "out_features": OUT,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}
MEAN = {"word_embedding_dimension": E, "pooling_mode_mean_tokens": True}


def graph(name: str = "last_hidden_state", *, width: int | str = E) -> GraphSpec:
    axes = ("batch_size", "sequence_length", width)
    shape = axes if name != "sentence_embedding" else (axes[0], width)
    return GraphSpec("onnx/model.onnx", 17, (), (TensorSpec(name, "float32", shape),), {})


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_modules(folder: Path, *kinds: str | tuple[str, dict], prefix: str | None = OLD) -> Path:
    """Write modules.json, and each module's folder with its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"model_type": "bert", "hidden_size": E})
    listed = []
    for index, entry in enumerate(("Transformer", *kinds)):
        kind, config = entry if isinstance(entry, tuple) else (entry, {})
        path = f"{index}_{kind}" if index else ""
        kind_path = f"{prefix}{kind}" if prefix is not None else NEW[kind]
        listed.append({"idx": index, "name": str(index), "path": path, "type": kind_path})
        if index:
            write_json(folder / path / "config.json", config)
    write_json(folder / "modules.json", listed)
    return folder


def spec_of(folder: Path, given: GraphSpec | None = None, **options):
    out = folder.parent / "out"
    out.mkdir(exist_ok=True)
    return export_embedding(open_checkpoint(str(folder)), Draft(out), given or graph(), **options)


def refused(folder: Path, error: type[LmonnxError], said: str, **options) -> None:
    with pytest.raises(error, match=said) as caught:
        spec_of(folder, **options)
    assert "\n" not in str(caught.value)


def write_dense(folder: Path, *, bias: bool = True, form: str = "safetensors", seed: int = 0):
    """Write the weights of a layer; return (inputs + 1, outputs)."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=(OUT, E)).astype(np.float32)
    arrays = {"linear.weight": weight}
    if bias:
        arrays["linear.bias"] = random.normal(size=OUT).astype(np.float32)
    if form == "safetensors":
        save_file(arrays, folder / "model.safetensors")
    else:
        torch_files.write_zip(folder / "pytorch_model.bin", arrays)
    return np.concatenate([weight.T, arrays.get("linear.bias", np.zeros(OUT))[None]])
