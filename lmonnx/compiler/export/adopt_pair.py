"""An encoder-decoder's ONNX graphs of another exporter → the two of decision 13, held to the first.

optimum traces such graphs, and folders of optimum's and of transformers.js hold them: an encoder, a
decoder's first step, and its later steps. The first step's keys and values of the source go to the
encoder; the later steps, which take a past of no tokens too, become the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import CacheSpec, GraphSpec, Precision
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.checkpoint.weights import Weights
from lmonnx.compiler.edits import drop_dead
from lmonnx.compiler.export import adopt
from lmonnx.compiler.export.adopt_cache import Around, cut_logits, missing_values
from lmonnx.compiler.export.adopt_pair_check import Original, check_pair
from lmonnx.compiler.export.adopt_pair_decoder import KINDS, Traced, rewrite_decoder
from lmonnx.compiler.export.adopt_pair_encoder import join_encoder
from lmonnx.compiler.export.adopt_pair_files import find_graphs, pick_files, read_graphs
from lmonnx.compiler.export.adopt_pair_read import WAY_OUT, Form, read_decoder
from lmonnx.compiler.export.adopt_places import Trial, find_lookups
from lmonnx.compiler.export.adopt_probe import lift_constants
from lmonnx.compiler.export.adopt_tables import store_once
from lmonnx.compiler.export.adopt_write import fused
from lmonnx.compiler.export.native.params import Params
from lmonnx.compiler.export.native.scope import Scope
from lmonnx.compiler.export.native.seq2seq.ranking import rank
from lmonnx.compiler.graph import GraphBuilder, Known, WeightFile, load_graph, opset_of, save_graph
from lmonnx.compiler.stage import SEQ2SEQ_FILES
from lmonnx.errors import BundleError, UnsupportedError

__all__ = ["AdoptedPair", "adopt_pair", "find_graphs"]

_PAST, _PRESENT = "past_key_values.", "present."
_TAKEN = {"input_ids": 2, "encoder_attention_mask": 2, "encoder_hidden_states": 3}
_FIELDS = ("max_position_embeddings", "n_positions")
_PLACES = 512  # where neither a table of places nor a field says how many: T5's
_ORDER = (Precision.INT4, Precision.INT8, Precision.FLOAT16, Precision.FLOAT32)


@dataclass(frozen=True, slots=True)
class AdoptedPair:
    """Two graphs in the draft, and what the manifest says of them.

    A source has at most `positions` tokens, an answer `context`.
    """

    graphs: Mapping[str, GraphSpec]
    precision: Precision
    cache: CacheSpec
    vocabulary: int
    positions: int
    context: int


def adopt_pair(checkpoint: Checkpoint, draft: Draft, variant: str | None) -> AdoptedPair:
    """Write an encoder-decoder's ONNX files into the draft as the two graphs of decision 13.

    Args:
        checkpoint: The folder that holds them.
        draft: Where the graphs go.
        variant: The suffix after the files' names; None takes float32, then int8.

    Raises:
        UnsupportedError: There are no such files, or something in them cannot be rewritten.
        StageError: A file is damaged.
        ParityError: The graphs that were written answer otherwise than those that were there.
    """
    files = pick_files(checkpoint, variant)
    graphs = read_graphs(checkpoint, files)
    folder, pad = files.folder, checkpoint.config.get("pad_token_id")
    pad = pad if type(pad) is int else None
    for model in (graphs.encoder, graphs.first, graphs.later):
        lift_constants(model.graph)
    form = _form(graphs.later, graphs.encoder, checkpoint, files.later.name)
    with adopt.damage_told(files.later):
        store_once(graphs.later, folder)
        traced = read_decoder(graphs.later, form, folder, pad, files.later.name)
        positions = _positions(graphs.encoder, form, folder, pad, files.encoder.name)
    contexts = [lookup.places for lookup in traced.lookups]
    with adopt.damage_told(files.encoder):
        join_encoder(graphs.encoder, graphs.first, form.cache, form.size, files.encoder.name)
        store_once(graphs.encoder, folder)
        rewrite_decoder(traced)
        _finish(traced, form.vocabulary, files.later.name)
        models = {"encoder": graphs.encoder, "decoder": graphs.later}
        specs = _write(models, folder, draft, form.vocabulary)
    stated = _stated_places(checkpoint)
    adopted = AdoptedPair(
        graphs=specs,
        precision=_precision(draft, specs),
        cache=form.cache,
        vocabulary=form.vocabulary,
        positions=positions or stated,
        context=min(contexts, default=stated),
    )
    check_pair(Original(checkpoint, files), draft.path, adopted.graphs, adopted)
    return adopted


def _form(
    later: onnx.ModelProto, encoder: onnx.ModelProto, checkpoint: Checkpoint, where: str
) -> Form:
    """Return the sizes that a decoder's inputs and outputs state.

    Raises:
        UnsupportedError: They are not those of a decoder with a past.
    """
    weights = {tensor.name for tensor in later.graph.initializer}
    taken = {v.name: v for v in later.graph.input if v.name not in weights}
    given = {value.name: value for value in later.graph.output}
    pasts = [name for name in taken if name.startswith(_PAST)]
    layers = len(pasts) // 4
    own = [f"{layer}.decoder.{kind}" for layer in range(layers) for kind in KINDS]
    wanted = {f"{_PAST}{name}" for name in own}
    wanted |= {name.replace(".decoder.", ".encoder.") for name in wanted}
    if not layers or set(pasts) != wanted or taken.keys() - wanted - _TAKEN.keys():
        raise UnsupportedError(
            f"{where} takes {', '.join(sorted(taken.keys() - wanted)) or 'nothing else'} and "
            f"{len(pasts)} pasts; a decoder of an encoder-decoder takes {', '.join(_TAKEN)}, "
            f"{_PAST}N.decoder.key, .value, {_PAST}N.encoder.key and .value; {WAY_OUT}"
        )
    if missing := {"logits", *(f"{_PRESENT}{name}" for name in own)} - given.keys():
        raise UnsupportedError(f"{where} does not give {min(missing)}; {WAY_OUT}")
    if _type(taken["input_ids"]) != (TensorProto.INT64, 2):
        raise UnsupportedError(f"{where}: input_ids is not int64 of two axes; {WAY_OUT}")
    heads, size = _heads([taken[name] for name in sorted(wanted)], where)
    vocabulary = _last(given["logits"]) or checkpoint.config.get("vocab_size")
    if _type(given["logits"])[0] != TensorProto.FLOAT or type(vocabulary) is not int:
        raise UnsupportedError(f"{where}: logits are not FLOAT (rows, Q, V); {WAY_OUT}")
    width = _last(encoder.graph.output[0]) or checkpoint.config.get("d_model")
    return Form(layers, heads, size, vocabulary, width if type(width) is int else 1)


def _heads(pasts: list[onnx.ValueInfoProto], where: str) -> tuple[int, int]:
    """Return the H and D of float32 (rows, H, T, D) that every past must have."""
    found = set()
    for value in pasts:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        sized = len(dims) == 4 and dims[1] > 0 and dims[3] > 0
        if value.type.tensor_type.elem_type != TensorProto.FLOAT or not sized:
            raise UnsupportedError(
                f"{where}: {value.name} is not FLOAT (rows, H, T, D) with H and D stated; {WAY_OUT}"
            )
        found.add((dims[1], dims[3]))
    if len(found) != 1:
        raise UnsupportedError(f"{where} has layers with pasts of several shapes; {WAY_OUT}")
    return found.pop()


def _type(value: onnx.ValueInfoProto) -> tuple[int, int]:
    tensor = value.type.tensor_type
    return tensor.elem_type, len(tensor.shape.dim)


def _last(value: onnx.ValueInfoProto) -> int:
    """Return the length of the last axis; 0 where it is not stated."""
    dims = value.type.tensor_type.shape.dim
    return int(dims[-1].dim_value) if len(dims) == 3 else 0


def _positions(
    encoder: onnx.ModelProto, form: Form, folder: Path, pad: int | None, where: str
) -> int | None:
    """Return how many tokens an encoder has rows of a table for; None where it has no table."""
    dice = np.random.default_rng(0)
    known = np.setdiff1d(np.arange(form.vocabulary), [] if pad is None else [pad])
    trials = []
    for length in (5, 9):
        ids = dice.choice(known, (2, length))
        trials.append(Trial({"input_ids": ids, "attention_mask": np.ones_like(ids)}, 0))
    found = find_lookups(encoder, folder, trials, where)
    return min((lookup.places for lookup in found), default=None)


def _stated_places(checkpoint: Checkpoint) -> int:
    stated = (checkpoint.config.get(name) for name in _FIELDS)
    return next((rows for rows in stated if type(rows) is int and rows > 0), _PLACES)


def _finish(traced: Traced, vocabulary: int, where: str) -> None:
    """Cut the logits that are not wanted, and state the inputs and outputs of decision 13.

    Raises:
        UnsupportedError: The graph reads what it no longer has.
    """
    graph, g, cache = traced.model.graph, Around(), traced.cache
    nodes = cut_logits(graph, g, g.first_wanted("/cache/length_output"))
    place = next(i for i, node in enumerate(nodes) if "/cache/length_output" in node.output)
    nodes = [*nodes[: place + 1], *g.nodes, *nodes[place + 1 :]]
    del graph.node[:]
    graph.node.extend(nodes)
    known = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(t for name, t in g.constants.items() if name not in known)
    _declare(graph, cache, vocabulary)
    drop_dead(graph)
    if missing := missing_values(graph):
        raise UnsupportedError(
            f"{where}: {min(missing)} is read besides by attention and sizes, which cannot be "
            f"rewritten; {WAY_OUT}"
        )


def _declare(graph: onnx.GraphProto, cache: CacheSpec, vocabulary: int) -> None:
    for field in (graph.input, graph.output, graph.value_info):
        del field[:]
    tensor, ints = helper.make_tensor_value_info, TensorProto.INT64
    graph.input.extend(
        [
            tensor("input_ids", ints, ["rows", "sequence_length"]),
            tensor("seqlens_k", TensorProto.INT32, ["rows"]),
            tensor("total_sequence_length", TensorProto.INT32, []),
            tensor("logits_to_keep", ints, []),
            tensor("top_k", ints, []),
            tensor("source_lengths", TensorProto.INT32, ["sources"]),
        ]
    )
    graph.output.append(tensor("logits", TensorProto.FLOAT, ["rows", "kept_length", vocabulary]))
    for field, name, rows, time in (
        (graph.input, "cross_key_values", "sources", "source_length"),
        (graph.input, "past_key_values", "rows", "past_sequence_length"),
        (graph.output, "present", "rows", "total_sequence_length"),
    ):
        shape = [rows, cache.heads, time, cache.head_size]
        field.extend(
            tensor(f"{name}.{layer}.{kind}", TensorProto.FLOAT, shape)
            for layer in range(cache.layers)
            for kind in KINDS
        )


def _write(
    models: Mapping[str, onnx.ModelProto], source: Path, draft: Draft, vocabulary: int
) -> dict[str, GraphSpec]:
    """Write the graphs fused, what both read in the encoder's file of weights alone."""
    known: Known = {}
    specs = {}
    for role, model in models.items():
        target = draft.file(SEQ2SEQ_FILES[role])
        with _refused(role), fused(model, source, target.parent) as (made, folder):
            if role == "decoder":
                _rank(made, folder, vocabulary)
            specs[role] = save_graph(
                made, folder, target, SEQ2SEQ_FILES[role], optimized=True, known=known
            )
    return specs


@contextmanager
def _refused(role: str) -> Iterator[None]:
    """Say that a graph cannot be rewritten where onnxruntime does not load what was made of it."""
    try:
        yield
    except BundleError as error:
        raise UnsupportedError(f"the {role} cannot be rewritten: {error}; {WAY_OUT}") from error


def _rank(model: onnx.ModelProto, folder: Path, vocabulary: int) -> None:
    """Append the ranking of tokens; it is not fused, since it may not be run."""
    weights = WeightFile(folder / "ranking")
    g = GraphBuilder(weights)
    rank(Scope(g, Params(Weights({}), "")), vocabulary, opset=opset_of(model))
    weights.close()
    model.graph.node.extend(g.nodes)
    model.graph.initializer.extend(g.initializers.values())
    model.graph.output.extend(g.outputs)


def _precision(draft: Draft, specs: Mapping[str, GraphSpec]) -> Precision:
    found = {
        adopt.precision_of(load_graph(draft.path / spec.file), spec) for spec in specs.values()
    }
    return next(each for each in _ORDER if each in found)
