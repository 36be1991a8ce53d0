"""A decoder's graph is exported fused: what optimize does is to count that, and say so."""

from __future__ import annotations

from lmonnx.bundle.manifest import Manifest
from lmonnx.errors import StageError

_FUSED = ("GroupQueryAttention", "SimplifiedLayerNormalization", "QuickGelu", "FastGelu", "Gelu")
# What is left of an attention that was not fused.
_LOOSE = ("Softmax", "CausalMask", "Trilu")


def check_decoder(manifest: Manifest) -> dict[str, int]:
    """Return how often each fused operator stands in a decoder's graph.

    Raises:
        StageError: It is quantized or was optimized before, or a layer's attention is not fused.
    """
    if any(step.stage != "export" for step in manifest.history):
        raise StageError(
            "this decoder is optimized or quantized already; quantize it, or use it as it is"
        )
    operators = manifest.graphs["model"].operators
    layers = manifest.generation.cache.layers if manifest.generation else 0
    fused = {name: operators[name] for name in _FUSED if operators.get(name)}
    if manifest.history[0].options.get("engine") != "native":
        return fused  # traced and adopted graphs are fused as far as onnxruntime knows them
    attention = operators.get("GroupQueryAttention", 0)
    loose = [name for name in _LOOSE if operators.get(name)]
    if attention != layers or loose:
        raise StageError(
            f"the decoder has {layers} layers and {attention} GroupQueryAttention"
            + (f", and {loose[0]} beside them" if loose else "")
            + "; export it again with --engine native"
        )
    return fused
