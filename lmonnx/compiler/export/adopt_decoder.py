"""A decoder's ONNX graph of another exporter → one of our contract, held to itself step by step.

optimum traces such graphs, and folders of optimum's and of transformers.js hold them: a past that
the graph appends to, a mask, positions. See adopt_cache.py for what is put around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import CacheSpec, GraphSpec, Precision
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export import adopt
from lmonnx.compiler.export.adopt_branch import take_branch
from lmonnx.compiler.export.adopt_cache import share_cache
from lmonnx.compiler.export.adopt_check import check_steps
from lmonnx.compiler.export.adopt_tables import store_once
from lmonnx.compiler.export.adopt_write import fused
from lmonnx.compiler.graph import load_graph, opset_of, save_graph
from lmonnx.compiler.stage import MODEL_FILE
from lmonnx.errors import UnsupportedError

STEMS = ("model", "decoder_model_merged")
# What a graph may take beside its past: name → how many axes.
_INPUTS = {"input_ids": 2, "attention_mask": 2, "position_ids": 2}
_OLDEST_OPSET = 11  # of ScatterND
_OLDEST_IR = 4  # before it, constants are inputs
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_CONTEXT = 2048  # where no field states one: what Falcon and BLOOM were trained with
_WAY_OUT = "export the model from its checkpoint instead"


@dataclass(frozen=True, slots=True)
class Adopted:
    """A decoder's graph in the draft, and what the manifest says of it."""

    graph: GraphSpec
    precision: Precision
    cache: CacheSpec
    vocabulary: int
    context: int


def find_graphs(checkpoint: Checkpoint) -> dict[str, Path]:
    """Return the decoders' ONNX files that may be adopted: suffix → path, the best first."""
    return adopt.find_graphs(checkpoint, STEMS)


def adopt_graph(checkpoint: Checkpoint, draft: Draft, variant: str | None) -> Adopted:
    """Write a decoder's ONNX file into the draft with the inputs and outputs of decision 11.

    Args:
        checkpoint: The folder that holds it.
        draft: Where it goes.
        variant: The suffix after the file's name; None takes float32, then int8.

    Raises:
        UnsupportedError: There is no such file, or its past cannot become a cache in place.
        StageError: The file is damaged.
        ParityError: In steps or in a batch it answers otherwise than at once.
    """
    path = adopt.pick_graph(checkpoint, variant, STEMS)
    model = adopt.read_graph(checkpoint, path)
    adopt.check_versions(model, path)
    take_branch(model, path.name)
    cache = _read_cache(model, path.name)
    vocabulary = _vocabulary(model, checkpoint, path.name)
    with adopt.damage_told(path):
        store_once(model, path.parent)
    share_cache(model, cache, vocabulary, path.name)
    target = draft.file(MODEL_FILE)
    with adopt.damage_told(path), fused(model, path.parent, target.parent) as (made, folder):
        spec = save_graph(made, folder, target, MODEL_FILE, optimized=True)
    precision = adopt.precision_of(load_graph(target), spec)
    context = context_of(checkpoint.config)
    check_steps(target, spec, cache, vocabulary=vocabulary, context=context, precision=precision)
    return Adopted(spec, precision, cache, vocabulary, context)


def context_of(config: Mapping[str, object]) -> int:
    """Return how many tokens a decoder takes, from whichever field of config.json states it."""
    stated = (config.get(name) for name in _CONTEXTS)
    return next((rows for rows in stated if type(rows) is int and rows > 0), _CONTEXT)


def _read_cache(model: onnx.ModelProto, where: str) -> CacheSpec:
    """Return the cache that a graph's past is, once its inputs and outputs are the known ones.

    Raises:
        UnsupportedError: They are others.
    """
    opset = opset_of(model)
    if opset < _OLDEST_OPSET:
        raise UnsupportedError(f"{where} is of opset {opset}, before {_OLDEST_OPSET}; {_WAY_OUT}")
    model.ir_version = max(model.ir_version, _OLDEST_IR)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in weights}
    outputs = {value.name for value in model.graph.output}
    past = {
        name.removeprefix("past_key_values."): inputs[name]
        for name in inputs
        if name.startswith("past_key_values.")
    }
    layers = len(past) // 2
    wanted = {f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")}
    other = inputs.keys() - _INPUTS.keys() - {f"past_key_values.{name}" for name in wanted}
    if not layers or other or "input_ids" not in inputs or past.keys() != wanted:
        raise UnsupportedError(
            f"{where} takes {', '.join(sorted(other or inputs))}; a decoder takes "
            f"{', '.join(_INPUTS)}, past_key_values.N.key and .value; {_WAY_OUT}"
        )
    if missing := {"logits", *(f"present.{name}" for name in wanted)} - outputs:
        raise UnsupportedError(f"{where} does not give {min(missing)}; {_WAY_OUT}")
    for name, axes in _INPUTS.items():
        if name in inputs and _form(inputs[name]) != (TensorProto.INT64, axes):
            raise UnsupportedError(f"{where}: {name} is not int64 of {axes} axes; {_WAY_OUT}")
    return _layout(past, layers, where)


def _form(value: onnx.ValueInfoProto) -> tuple[int, int]:
    tensor = value.type.tensor_type
    return tensor.elem_type, len(tensor.shape.dim)


def _layout(past: Mapping[str, onnx.ValueInfoProto], layers: int, where: str) -> CacheSpec:
    """Return the one layout (B, K, P, D) of float32 that every past must have."""
    found = set()
    for name, value in past.items():
        dims = [d.dim_value or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]
        elem = value.type.tensor_type.elem_type
        numbers = tuple(axis for axis, size in enumerate(dims) if isinstance(size, int))
        if elem != TensorProto.FLOAT or len(dims) != 4 or numbers != (1, 3):
            stated = ", ".join(map(str, dims))
            raise UnsupportedError(
                f"{where}: past_key_values.{name} is {TensorProto.DataType.Name(elem)} ({stated}), "
                f"not FLOAT (B, K, P, D) with K and D stated; {_WAY_OUT}"
            )
        found.add((dims[1], dims[3]))
    if len(found) != 1:
        raise UnsupportedError(f"{where} has layers with pasts of several shapes; {_WAY_OUT}")
    heads, size = found.pop()
    return CacheSpec(layers, int(heads), int(size))


def _vocabulary(model: onnx.ModelProto, checkpoint: Checkpoint, where: str) -> int:
    logits = next(value for value in model.graph.output if value.name == "logits")
    dims = logits.type.tensor_type.shape.dim
    stated = dims[-1].dim_value if len(dims) == 3 else 0
    width = stated or checkpoint.config.get("vocab_size")
    if logits.type.tensor_type.elem_type != TensorProto.FLOAT or type(width) is not int:
        raise UnsupportedError(f"{where}: logits are not FLOAT (B, S, V); {_WAY_OUT}")
    return width
