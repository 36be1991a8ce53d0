"""config.json and weights of an encoder-decoder → the two graphs of decision 13."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lmonnx.bundle.manifest import CacheSpec, GraphSpec
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders.blocks import norm, path_of
from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.export.native.seq2seq import attention, blocks, positions
from lmonnx.compiler.export.native.seq2seq.families import SEQ2SEQS, Seq2SeqFamily
from lmonnx.compiler.export.native.seq2seq.plan import EncoderDecoder, Stack
from lmonnx.compiler.export.native.seq2seq.ranking import rank
from lmonnx.compiler.graph import MICROSOFT, GraphBuilder, Known, WeightFile, graph_spec
from lmonnx.errors import UnsupportedError

SOURCES = ("sources", "source_length")
TOKENS = ("rows", "sequence_length")


def read_seq2seq(checkpoint: Checkpoint) -> EncoderDecoder:
    """Return what a checkpoint's config.json describes.

    Raises:
        UnsupportedError: The architecture or a field is not built here.
        StageError: A field is missing or of the wrong type.
    """
    config = Config(checkpoint.config, way_out="Take a checkpoint without it")
    plan = _family(checkpoint).read(config)
    config.finish()
    return plan


def cache_spec(plan: EncoderDecoder) -> CacheSpec:
    """Return the cache that the decoder's graph reads and writes; the cross cache is alike."""
    decoder = plan.decoder
    return CacheSpec(decoder.count, decoder.heads.count, decoder.heads.filled)


def build_seq2seq(
    checkpoint: Checkpoint, plan: EncoderDecoder, folder: Path, files: Mapping[str, str]
) -> dict[str, GraphSpec]:
    """Write the graphs `encoder` and `decoder` to `folder`, and their weights beside them.

    What both read is in the encoder's file of weights alone.

    Raises:
        StageError: A tensor is missing, of another shape, or damaged.
    """
    family, known = _family(checkpoint), Known()
    params = Params(checkpoint.weights(), "", base=family.base)
    specs = {}
    for role, append in (("encoder", _encode), ("decoder", _decode)):
        path = folder / files[role]
        weights = WeightFile(path.with_name(f"{path.name}_data"), known)
        try:
            g = Scope(GraphBuilder(weights), params)
            append(g, plan)
        finally:
            weights.close()
        model = g.graph.model(f"{checkpoint.architecture}-{role}")
        onnx.save(model, path)
        specs[role] = graph_spec(model, files[role], optimized=True)
    params.finish()
    return specs


def _family(checkpoint: Checkpoint) -> Seq2SeqFamily:
    family = SEQ2SEQS.get(checkpoint.architecture)
    if family is None:
        raise UnsupportedError(
            f"no encoder-decoder of the architecture {checkpoint.architecture!r} is built here, "
            f"only {', '.join(sorted(SEQ2SEQS))}; another may be traced: "
            "pip install 'lmonnx[optimum,cpu]', then --engine optimum"
        )
    return family


def _encode(g: Scope, plan: EncoderDecoder) -> None:
    """Append the encoder, which ends in the cross keys and values of all decoder layers."""
    s = plan.encoder
    g.graph.input("input_ids", np.int64, SOURCES)
    g.graph.input("source_lengths", np.int32, SOURCES[:1])
    x = blocks.embed(g, s, positions.add_source_places)
    added = positions.source_distances(g, s.distances, s.heads.count) if s.distances else ""
    for index in range(s.count):
        x = blocks.encoder_layer(g, s, index, x, added)
    if s.final_norm:
        x = norm(g, s, x, s.final_norm, s.hidden)
    for index in range(plan.decoder.count):
        for name in attention.cross_keys(g, plan.decoder, index, x):
            _declare(g.graph, name, _keys_shape(plan.decoder, *SOURCES))


def _decode(g: Scope, plan: EncoderDecoder) -> None:
    """Append the decoder, which goes on from a cache."""
    s = plan.decoder
    _decoder_inputs(g.graph, s)
    x = blocks.embed(g, s, positions.add_places)
    added = positions.distances(g, s.distances, s.heads.count) if s.distances else ""
    length = g.op("Shape", "input_ids", name="shapes/Length", start=1, end=2)
    kept = g.op("Min", length, "logits_to_keep", name="logits_to_keep/Min")
    first = g.op("Sub", length, kept, name="logits_to_keep/First")
    shapes = _cross_shapes(g, s, length, "shapes")
    for index in range(s.count):
        if index < s.count - 1:
            x = blocks.decoder_layer(g, s, index, x, added, shapes)
        else:
            shapes = _cross_shapes(g, s, kept, "logits_to_keep")
            x = blocks.decoder_layer(g, s, index, x, added, shapes, first)
    _head(g, plan, x)
    _declare(g.graph, "logits", ("rows", "kept_length", s.vocabulary))
    rank(g, s.vocabulary)
    for index in range(s.count):
        for part in ("key", "value"):
            shape = _keys_shape(s, "rows", "total_sequence_length")
            _declare(g.graph, f"present.{index}.{part}", shape)


def _decoder_inputs(graph: GraphBuilder, s: Stack) -> None:
    graph.input("input_ids", np.int64, TOKENS)
    graph.input("seqlens_k", np.int32, TOKENS[:1])
    graph.input("total_sequence_length", np.int32, ())
    graph.input("logits_to_keep", np.int64, ())
    graph.input("top_k", np.int64, ())
    graph.input("source_lengths", np.int32, SOURCES[:1])
    for name, *shape in (
        ("cross_key_values", *SOURCES),
        ("past_key_values", "rows", "past_sequence_length"),
    ):
        for index in range(s.count):
            for part in ("key", "value"):
                graph.input(f"{name}.{index}.{part}", np.float32, _keys_shape(s, *shape))


def _keys_shape(s: Stack, rows: str, time: str) -> tuple[str | int, ...]:
    return rows, s.heads.count, time, s.heads.filled


def _cross_shapes(g: Scope, s: Stack, length: str, name: str) -> tuple[str, str]:
    """Return (G, rows / G · R, H·D) and (rows, R, H·D), where `length` holds R."""
    wide = g.ints(s.heads.count * s.heads.filled)
    rows = g.op("Shape", "input_ids", name=f"{name}/Rows", start=0, end=1)
    sources = g.op("Shape", "source_lengths", name=f"{name}/Sources")
    beams = g.op("Div", rows, sources, name=f"{name}/Beams")
    queries = g.op("Mul", beams, length, name=f"{name}/Queries")
    joined = g.op("Concat", sources, queries, wide, name=f"{name}/Joined", axis=0)
    return joined, g.op("Concat", rows, length, wide, name=f"{name}/Parted", axis=0)


def _head(g: Scope, plan: EncoderDecoder, x: str) -> None:
    """Append `logits`: (rows, R, E) → (rows, R, V)."""
    s, head = plan.decoder, plan.head
    if s.final_norm:
        x = norm(g, s, x, s.final_norm, s.hidden, factor=head.factor)
    bias = _head_bias(g, plan)
    name, outputs = path_of(head.module), [] if bias else ["logits"]
    if head.tied:
        # One table serves the lookup and this product.
        table, path = blocks.words(g, s), f"{name}/FusedMatMul"
        x = g.op("FusedMatMul", x, table, name=path, outputs=outputs, domain=MICROSOFT, transB=1)
    else:
        weight = f"{head.module}.weight"
        g.graph.weight(weight, g.params.transposed(weight, s.vocabulary, s.hidden))
        x = g.op("MatMul", x, weight, name=f"{name}/MatMul", outputs=outputs)
    if bias:
        g.op("Add", x, bias, name=f"{name}/Add", outputs=["logits"])


def _head_bias(g: Scope, plan: EncoderDecoder) -> str:
    """Store what is added to the logits; "" where it is nothing."""
    name = plan.head.bias
    if not name or not g.params.has(name):
        return ""
    bias = g.params.read(name, 1, plan.decoder.vocabulary)
    return g.graph.weight(name, bias.reshape(-1)) if bias.any() else ""


def _declare(graph: GraphBuilder, name: str, shape: Sequence[int | str]) -> None:
    """Declare a value that has its public name already: a copy of a cache would cost."""
    graph.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
