"""The two graphs of decision 13 in a bundle: checked against what it says of them, and loaded."""

from __future__ import annotations

from collections.abc import Sequence

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Generation, GraphSpec
from lmonnx.errors import BundleError, UnsupportedError
from lmonnx.runtime.binding import BoundSession
from lmonnx.runtime.generate.decoder import open_graph
from lmonnx.runtime.generate.shortlist import INPUTS
from lmonnx.runtime.session import CPU, Session, SessionConfig

ENCODER, DECODER = "encoder", "decoder"


def open_pair(bundle: Bundle, config: SessionConfig) -> tuple[Session, BoundSession]:
    """Load a bundle's encoder and decoder.

    Raises:
        BundleError: One is missing, or onnxruntime cannot load it.
        UnsupportedError: Another provider than the CPU is asked for.
    """
    if config.providers != (CPU,):
        raise UnsupportedError(
            f"encoder-decoders run on {CPU} only, not on {config.providers[0]}; leave providers out"
        )
    graphs = bundle.manifest.graphs
    return (
        open_graph(bundle, graphs[ENCODER], config, in_turn=True),
        open_graph(bundle, graphs[DECODER], config, in_turn=True),
    )


def check_pair(bundle: Bundle) -> Generation:
    """Return what a bundle says of generation, once its graphs have the inputs that it implies.

    Raises:
        BundleError: It is no encoder-decoder, or its caches have other names or shapes.
    """
    generation, graphs = bundle.manifest.generation, bundle.manifest.graphs
    if generation is None or generation.seq2seq is None or not {ENCODER, DECODER} <= graphs.keys():
        raise BundleError(f"{bundle.path} is no encoder-decoder; export the checkpoint again")
    cache = generation.cache
    if min(cache.layers, cache.heads, cache.head_size, generation.context) < 1:
        raise BundleError(f"{bundle.path}: its cache or context has no size; export it again")
    names = [f"{i}.{part}" for i in range(cache.layers) for part in ("key", "value")]
    cross, past, present = (
        [f"{kind}.{name}" for name in names]
        for kind in ("cross_key_values", "past_key_values", "present")
    )
    shortlist = generation.seq2seq.shortlist
    listed = INPUTS if shortlist else ()
    _check(bundle, ENCODER, ["input_ids", "source_lengths"], cross)
    _check(
        bundle,
        DECODER,
        [
            "input_ids", "seqlens_k", "total_sequence_length", "logits_to_keep", "top_k",
            "source_lengths", *listed, *cross, *past,
        ],
        ["logits", "top_logprobs", "top_ids", *present],
    )  # fmt: skip
    for tensor in (*graphs[ENCODER].outputs, *graphs[DECODER].inputs):
        sized = tensor.name in cross or tensor.name in past
        if sized and (
            len(tensor.shape) != 4 or tensor.shape[1::2] != (cache.heads, cache.head_size)
        ):
            raise BundleError(f"{bundle.path}: {tensor.name} is not (rows, H, T, D)")
    logits = next(tensor for tensor in graphs[DECODER].outputs if tensor.name == "logits")
    if len(logits.shape) not in (2, 3) or (
        shortlist is None and logits.shape[-1] != generation.vocabulary
    ):
        raise BundleError(f"{bundle.path}: the decoder gives other logits than are said")
    return generation


def gives_flat(graph: GraphSpec) -> bool:
    """Return whether a decoder gives the logits of all rows as (N, V), not as (rows, R, V)."""
    return next(len(tensor.shape) == 2 for tensor in graph.outputs if tensor.name == "logits")


def _check(bundle: Bundle, role: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    graph: GraphSpec = bundle.manifest.graphs[role]
    given = ({tensor.name for tensor in graph.inputs}, {tensor.name for tensor in graph.outputs})
    if given != (set(inputs), set(outputs)):
        raise BundleError(f"{bundle.path}: graph {role} has not an {role}'s inputs and outputs")
