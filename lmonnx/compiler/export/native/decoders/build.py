"""A decoder's config.json and weights → one ONNX graph.

For generation it is that of the cache contract (decision 11); for embeddings it reads whole texts
with their mask, as an encoder's graph does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from lmonnx.bundle.manifest import CacheSpec, GraphSpec
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders import blocks, places
from lmonnx.compiler.export.native.decoders.families import DECODERS, DecoderFamily
from lmonnx.compiler.export.native.decoders.fields import check_head
from lmonnx.compiler.export.native.decoders.plan import Decoder
from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.graph import MICROSOFT, GraphBuilder, WeightFile, graph_spec
from lmonnx.errors import UnsupportedError

TOKENS = ("batch_size", "sequence_length")


def read_decoder(checkpoint: Checkpoint) -> Decoder:
    """Return what a checkpoint's config.json describes.

    Raises:
        UnsupportedError: The architecture or a field is not built here.
        StageError: A field is missing or of the wrong type.
    """
    config = Config(checkpoint.config, way_out="Take a checkpoint without it")
    decoder = _family(checkpoint).read(config)
    config.finish()
    check_head(decoder.attention.head)
    return decoder


def cache_spec(decoder: Decoder) -> CacheSpec:
    """Return the cache that a decoder's graph reads and writes."""
    attention = decoder.attention
    return CacheSpec(len(decoder.layers), attention.kv_heads, attention.head)


def build_decoder(checkpoint: Checkpoint, decoder: Decoder, folder: Path, file: str) -> GraphSpec:
    """Write a decoder's graph to `folder`/`file` and its weights beside it.

    Raises:
        StageError: A tensor is missing, of another shape, or damaged.
    """
    return _write(checkpoint, decoder, folder / file, file, _decode)


def build_states(checkpoint: Checkpoint, decoder: Decoder, folder: Path, file: str) -> GraphSpec:
    """Write the graph of a decoder's last hidden states: no cache, no head, whole texts.

    `input_ids` and `attention_mask` (B, S) → `last_hidden_state` (B, S, E). Padding may be on
    either side of a text; its own vectors mean nothing.

    Raises:
        StageError: A tensor is missing, of another shape, or damaged.
    """
    whole = replace(decoder, cached=False)
    return _write(checkpoint, whole, folder / file, file, _read_texts)


def _write(
    checkpoint: Checkpoint,
    decoder: Decoder,
    path: Path,
    file: str,
    append: Callable[[Scope, Decoder], None],
) -> GraphSpec:
    weights = WeightFile(path.with_name(f"{path.name}_data"))
    family = _family(checkpoint)
    try:
        params = Params(checkpoint.weights(), family.prefix, base=family.base)
        g = Scope(GraphBuilder(weights), params)
        append(g, decoder)
        params.finish()
    finally:
        weights.close()
    model = g.graph.model(checkpoint.architecture)
    onnx.save(model, path)
    return graph_spec(model, file, optimized=decoder.cached)


def _family(checkpoint: Checkpoint) -> DecoderFamily:
    family = DECODERS.get(checkpoint.architecture)
    if family is None:
        raise UnsupportedError(
            f"no decoder of the architecture {checkpoint.architecture!r} is built here, only "
            f"{', '.join(sorted(DECODERS))}; others are traced: pip install 'lmonnx[optimum,cpu]'"
        )
    return family


def _inputs(graph: GraphBuilder, d: Decoder) -> None:
    graph.input("input_ids", np.int64, TOKENS)
    graph.input("seqlens_k", np.int32, ("batch_size",))
    graph.input("total_sequence_length", np.int32, ())
    graph.input("logits_to_keep", np.int64, ())
    for index in range(len(d.layers)):
        for part in ("key", "value"):
            graph.input(f"past_key_values.{index}.{part}", np.float32, _cache_shape(d, "past"))


def _cache_shape(d: Decoder, time: str) -> tuple[str | int, ...]:
    attention = d.attention
    return ("batch_size", attention.kv_heads, f"{time}_sequence_length", attention.head)


def _decode(g: Scope, d: Decoder) -> None:
    """Append all of the graph that goes on from a cache."""
    _inputs(g.graph, d)
    _rotations(g, d)
    x = _embed(g, d)
    first = _first_wanted(g)
    for index in range(len(d.layers)):
        last = index == len(d.layers) - 1
        x = blocks.block(g, d, index, x, first if last else "")
    _head(g, d, x)
    _declare(g.graph, "logits", ("batch_size", "kept_length", d.vocabulary))
    for index in range(len(d.layers)):
        for part in ("key", "value"):
            _declare(g.graph, f"present.{index}.{part}", _cache_shape(d, "total"))


def _read_texts(g: Scope, d: Decoder) -> None:
    """Append all of the graph that reads whole texts."""
    for name in ("input_ids", "attention_mask"):
        g.graph.input(name, np.int64, TOKENS)
    places.read_lengths(g)
    _rotations(g, d)
    x = _embed(g, d)
    for index in range(len(d.layers)):
        x = blocks.block(g, d, index, x)
    x = blocks.norm(g, d, x, d.names.final_norm, d.hidden)
    x = places.texts_back(g, x)
    g.graph.output(x, "last_hidden_state", np.float32, (*TOKENS, d.hidden))


def _rotations(g: Scope, d: Decoder) -> None:
    """Store the tables of rotary positions."""
    for name, rope in d.ropes.items():
        for part, table in zip(("cos", "sin"), rope.tables(d.context), strict=True):
            g.graph.weight(f"{name}.{part}", table)


def _declare(graph: GraphBuilder, name: str, shape: Sequence[int | str]) -> None:
    """Declare a value that has its public name already: a copy of a cache would cost."""
    value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
    graph.outputs.append(value)


def _embed(g: Scope, d: Decoder) -> str:
    """Return the vectors of the tokens, whole texts first in their rows: (B, S) → (B, S, E)."""
    words, name = d.names.words, blocks.path_of(d.names.words)
    table = g.params.read(f"{words}.weight", d.vocabulary, d.hidden)
    g.graph.weight(f"{words}.weight", table)
    x = g.op("Gather", f"{words}.weight", "input_ids", name=f"{name}/Gather", axis=0)
    if d.words_factor != 1.0:
        x = g.op("Mul", x, g.floats(d.words_factor), name=f"{name}/Scale")
    if not d.cached:
        x = places.texts_first(g, x)
    if not d.names.positions:
        return x
    module = d.names.positions
    table = g.params.read(f"{module}.weight", d.context, d.hidden)
    g.graph.weight(f"{module}.weight", table)
    name, where = blocks.path_of(module), places.positions(g, d)
    rows = g.op("Gather", f"{module}.weight", where, name=f"{name}/Gather", axis=0)
    return g.op("Add", x, rows, name=f"{name}/Add")


def _first_wanted(g: Scope) -> str:
    """Return the first of the positions that logits are wanted of, S where none are: (1,)."""
    length = g.op("Shape", "input_ids", name="logits_to_keep/Shape", start=1, end=2)
    first = g.op("Sub", length, "logits_to_keep", name="logits_to_keep/Sub")
    # Fewer than are asked for, where there are no more: a negative start would count from the end.
    return g.op("Max", first, g.ints(0), name="logits_to_keep/Max")


def _head(g: Scope, d: Decoder, x: str) -> None:
    """Append `logits`: (B, R, E) → (B, R, V)."""
    x = blocks.norm(g, d, x, d.names.final_norm, d.hidden, factor=d.logits_factor)
    capped = d.logits_cap > 0
    name, outputs = blocks.path_of(d.names.head), [] if capped else ["logits"]
    words = f"{d.names.words}.weight"
    if d.tied:
        # One table serves the lookup and this product.
        path = f"{name}/FusedMatMul"
        x = g.op("FusedMatMul", x, words, name=path, outputs=outputs, domain=MICROSOFT, transB=1)
    else:
        weight = f"{d.names.head}.weight"
        g.graph.weight(weight, g.params.transposed(weight, d.vocabulary, d.hidden))
        x = g.op("MatMul", x, weight, name=f"{name}/MatMul", outputs=outputs)
    if capped:
        cap = g.floats(d.logits_cap)
        x = g.op("Div", x, cap, name=f"{name}/Div")
        x = g.op("Tanh", x, name=f"{name}/Tanh")
        g.op("Mul", x, cap, name=f"{name}/Cap", outputs=["logits"])
