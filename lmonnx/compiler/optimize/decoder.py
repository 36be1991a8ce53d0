"""Graphs of decoders are exported fused: what optimize does is to count that, and say so."""

from __future__ import annotations

from collections.abc import Mapping

from lmonnx.bundle.manifest import Manifest
from lmonnx.errors import StageError

_FUSED = (
    "GroupQueryAttention",
    "MultiHeadAttention",
    "SimplifiedLayerNormalization",
    "QuickGelu",
    "FastGelu",
    "BiasGelu",
    "Gelu",
)
# What is left of an attention that was not fused.
_LOOSE = ("Softmax", "CausalMask", "Trilu")


def check_decoder(manifest: Manifest) -> dict[str, int]:
    """Return how often each fused operator stands in the graphs of a decoder's bundle.

    Raises:
        StageError: It is quantized or was optimized before, or a layer's attention is not fused.
    """
    if any(step.stage != "export" for step in manifest.history):
        raise StageError(
            "this decoder is optimized or quantized already; quantize it, or use it as it is"
        )
    if manifest.history[0].options.get("engine") == "native":
        for role, wanted in _attentions(manifest).items():
            _check(role, manifest.graphs[role].operators, wanted)
    # Traced and adopted graphs are fused as far as onnxruntime knows them.
    counts = [graph.operators for graph in manifest.graphs.values()]
    found = {name: sum(count.get(name, 0) for count in counts) for name in _FUSED}
    return {name: count for name, count in found.items() if count}


def _attentions(manifest: Manifest) -> Mapping[str, Mapping[str, int]]:
    """Return how many attentions of each operator each graph must have; 0 is at least one."""
    generation = manifest.generation
    layers = generation.cache.layers if generation else 0
    if generation is None or generation.seq2seq is None:
        return {"model": {"GroupQueryAttention": layers}}
    return {
        "encoder": {"MultiHeadAttention": 0},  # its layers are counted nowhere else
        "decoder": {"GroupQueryAttention": layers, "MultiHeadAttention": layers},
    }


def _check(role: str, operators: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    loose = [name for name in _LOOSE if operators.get(name)]
    for name, layers in wanted.items():
        attention = operators.get(name, 0)
        if loose or not (attention == layers if layers else attention):
            what = "decoder" if role == "model" else role
            stated = f"{layers} layers" if layers else "layers"
            raise StageError(
                f"the {what} has {stated} and {attention} {name}"
                + (f", and {loose[0]} beside them" if loose else "")
                + "; export it again with --engine native"
            )
