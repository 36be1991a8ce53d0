"""Which operators must turn into which: the counts that a fused graph is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmonnx.errors import StageError


@dataclass(frozen=True, slots=True)
class Fusion:
    """Every `before` node must be gone, and as many of the `after` nodes be there instead."""

    before: str
    after: tuple[str, ...]


FUSIONS = (
    Fusion("Erf", ("BiasGelu", "Gelu")),  # x/2 · (1 + erf((x + b)/√2)), one a layer
    Fusion("Softmax", ("FusedMatMul",)),  # q·kᵀ/√D: the scale inside the product, one a layer
)
_WAY_OUT = (
    "this version of onnxruntime does not match the graph: report it, and use the bundle as it is, "
    "which quantize takes too"
)


def fused_counts(operators: Mapping[str, int]) -> dict[str, int]:
    """Return how often each fused operator stands in a graph."""
    names = [name for fusion in FUSIONS for name in fusion.after]
    extra = ("FastGelu", "FusedGemm", "QuickGelu", "SkipLayerNormalization", "Attention")
    return {name: operators[name] for name in (*names, *extra) if operators.get(name)}


def check_fusions(
    before: Mapping[str, int], after: Mapping[str, int], loose: Sequence[str] = ()
) -> None:
    """Hold a fused graph to the counts that its operators must give.

    Args:
        before: Operators of the graph as it was exported; of Softmax only those of attentions.
        after: Operators of the fused graph.
        loose: Its products that have their scale beside them still: a FusedMatMul may be one for
            another reason, so that its count does not tell.

    Raises:
        StageError: A fusion did not match everywhere; the message gives both counts.
    """
    if loose:
        raise StageError(
            f"{len(loose)} products of attentions keep their scale beside them, the first is "
            f"{loose[0]}; {_WAY_OUT}"
        )
    for fusion in FUSIONS:
        wanted = before.get(fusion.before, 0)
        had = sum(before.get(name, 0) for name in fusion.after)
        given = sum(after.get(name, 0) for name in fusion.after)
        if given < wanted + had:
            raise StageError(
                f"{wanted} {fusion.before} of the graph should give {wanted} "
                f"{' or '.join(fusion.after)}, onnxruntime made {given - had}; {_WAY_OUT}"
            )
