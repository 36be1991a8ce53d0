"""What each method makes of a decoder: which products are held how, and what is smoothed first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import onnx

from lmonnx.bundle.manifest import Precision
from lmonnx.compiler.quantize.blocks import BLOCK_SIZES
from lmonnx.compiler.quantize.forms import BY_ROWS, CALIBRATED, Form
from lmonnx.compiler.quantize.layers import Layer, find_layers, is_lookup, node_name


class Method(StrEnum):
    """How weights, and activations, become integers."""

    DYNAMIC = "dynamic"  # int8 by rows: many rows at once
    WEIGHT_ONLY = "weight-only"  # in blocks: few rows at once (decoders)
    BOTH = "both"  # a graph of each (decoders)


@dataclass(frozen=True, slots=True)
class Plan:
    """One graph of a bundle: how its products are held, and whether activations are smoothed.

    By rows a value whose rows' peaks are never more than `steady` times their median has one scale
    for all rows. Before a head by rows each row has its own, if it is `fine`. One that `reuses`
    blocks has what is by rows made of another graph's at load.
    """

    role: str
    body: Form
    head: Form
    smoothed: bool
    steady: float = 0.0
    fine: bool = False
    reuses: bool = False

    @property
    def is_calibrated(self) -> bool:
        """Say whether text has to be run through the model to make it."""
        return self.smoothed or self.body.bits in CALIBRATED


# By bits. Of few bits the head loses most, but it is a fifth of a small model's bytes.
HEADS = {4: Form(4, 32), 8: Form(8, 64)}
HEAD_BITS = 4
# By bits, at most. With 4 bits onnxruntime 1.32 gives the same product for one row and for several
# in blocks of 32 alone: larger ones prefill faster, and let an answer depend on its company.
BLOCKS = {4: 32, 8: 32}
# How much perplexity may rise unasked. Q4_0 of llama.cpp takes a model of 135M parameters up by
# 19%, one of 7B by 2%: what is too much for a model only its user knows.
DROPS: Mapping[tuple[Method, int], float] = {
    (Method.WEIGHT_ONLY, 8): 0.01,
    (Method.WEIGHT_ONLY, 4): 0.2,
    (Method.DYNAMIC, 8): 0.05,
    (Method.DYNAMIC, 4): 0.05,
    (Method.BOTH, 8): 0.05,
    (Method.BOTH, 4): 0.2,
}
# The same of an encoder-decoder's own greedy answers.
PAIR_DROPS: Mapping[tuple[Method, int], float] = {
    (Method.WEIGHT_ONLY, 8): 0.05,
    (Method.WEIGHT_ONLY, 4): 0.2,
    (Method.DYNAMIC, 8): 0.05,
    (Method.DYNAMIC, 4): 0.05,
}
# And of its BLEU, or what else the task is judged by.
LABELLED_DROPS: Mapping[tuple[Method, int], float] = dict.fromkeys(PAIR_DROPS, 0.01)
PRECISIONS = {4: Precision.INT4, 8: Precision.INT8}


def plans(
    method: Method,
    bits: int,
    block_size: int,
    head_bits: int = HEAD_BITS,
    *,
    int8_prompts: bool = False,
) -> tuple[Plan, ...]:
    """Return the graphs of a method, in the order in which they are written.

    Args:
        method: One of three.
        bits: Of weights in blocks, 4 or 8.
        block_size: How many of them share a scale.
        head_bits: Of the head of graphs in blocks, 4 or 8.
        int8_prompts: Add to blocks a graph that multiplies them by rows.
    """
    rows = Plan("model", BY_ROWS, BY_ROWS, smoothed=True, fine=True)
    blocks = Plan(
        "model",
        Form(bits, block_size),
        HEADS[max(bits, head_bits)],
        smoothed=False,
    )
    prompt = replace(rows, role="prompt", head=blocks.head, reuses=True)
    # A head of as many bits is stored once.
    beside = replace(rows, head=blocks.head) if blocks.head == HEADS[8] else rows
    return {
        Method.DYNAMIC: (rows,),
        Method.WEIGHT_ONLY: (blocks, prompt) if int8_prompts else (blocks,),
        Method.BOTH: (beside, replace(blocks, role="lone")),
    }[method]


def forms(model: onnx.ModelProto, plan: Plan, kept: Collection[str]) -> dict[str, Form]:
    """Return how each layer of a decoder's graph is held, but for those that are kept.

    A table is looked up by blocks that leave no remainder, so its width may ask for smaller ones,
    or for none.
    """
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    layers = find_layers(model)
    tied = {layer.weight for layer in layers if layer.rows}
    tables = {n.input[0]: node_name(n) for n in model.graph.node if is_lookup(n)}
    heads = find_heads(model, layers)
    body = [layer.name for layer in layers if layer.name not in heads]
    widths = {x.name: shapes[x.weight][1 if x.rows else 0] for x in layers}
    found = {name: _fitting(plan.body, widths[name]) or plan.body for name in body}
    found |= dict.fromkeys(heads, plan.head)
    for table, name in tables.items():
        form = plan.head
        if form.block_size:
            form = _fitting(form, shapes[table][1]) or Form(0, 0)
        if table not in tied:
            found[name] = form
        else:
            found |= {layer.name: form for layer in layers if layer.weight == table}
    return {name: form for name, form in found.items() if name not in kept and form.bits}


def find_heads(model: onnx.ModelProto, layers: Collection[Layer]) -> set[str]:
    """Return the names of the layers that have an output a word, whose table may be tied."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    looked_up = [shapes[n.input[0]][0] for n in model.graph.node if is_lookup(n)]
    vocabulary = max(looked_up, default=0)
    return {x.name for x in layers if x.rows or shapes[x.weight][1] == vocabulary}


def _fitting(form: Form, width: int) -> Form | None:
    """Return the form with the largest blocks that leave no remainder of a width, if any do."""
    sizes = [size for size in BLOCK_SIZES if size <= form.block_size and width % size == 0]
    return replace(form, block_size=max(sizes)) if sizes else None
