"""What each method makes of the two graphs of an encoder-decoder."""

from __future__ import annotations

from lmonnx.compiler.quantize.choice import Choice
from lmonnx.compiler.quantize.decoder_graph import BY_ROWS, SEVEN_BIT_TABLE, Form
from lmonnx.compiler.quantize.graph_source import GraphSource
from lmonnx.compiler.quantize.recipes import HEADS, Method, Plan

# Rows are cut where their peak is beyond all that calibration showed: only what is even gets one
# scale for all rows.
STEADY = 6.0


def pair_plans(choice: Choice, decoder: GraphSource) -> tuple[Plan, Plan]:
    """Return how encoder and decoder are held.

    The encoder reads many rows at once, so it is by rows in any case; a table that it shares with
    the decoder is as the decoder's.
    """
    tied = any(layer.rows for layer in decoder.layers)
    table = SEVEN_BIT_TABLE if tied else BY_ROWS
    if choice.method is Method.DYNAMIC:
        return (
            Plan("encoder", BY_ROWS, table, smoothed=True, steady=STEADY),
            Plan("decoder", BY_ROWS, BY_ROWS, smoothed=True, steady=STEADY),
        )
    head = HEADS[max(choice.bits, choice.head_bits)]
    return (
        Plan("encoder", BY_ROWS, head, smoothed=True, steady=STEADY),
        Plan("decoder", Form(choice.bits, choice.block_size), head, smoothed=False),
    )
