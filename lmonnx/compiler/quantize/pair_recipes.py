"""What each method makes of the two graphs of an encoder-decoder."""

from __future__ import annotations

from dataclasses import replace

from lmonnx.compiler.quantize.choice import Choice
from lmonnx.compiler.quantize.forms import BY_ROWS, SEVEN_BIT_TABLE, Form
from lmonnx.compiler.quantize.graph_source import GraphSource
from lmonnx.compiler.quantize.recipes import HEADS, Method, Plan

# Every value of marian-multi30k-de-en is within 5.2. One scale for all rows loses no BLEU against a
# scale a row there, and saves half of the nodes.
STEADY = 6.0


def pair_plans(choice: Choice, decoder: GraphSource) -> tuple[Plan, Plan]:
    """Return how decoder and encoder are held, in the order in which they are written.

    The encoder reads many rows at once, so it is by rows in any case; a table that it shares with
    the decoder is as the decoder's.
    """
    tied = any(layer.rows for layer in decoder.layers)
    table = SEVEN_BIT_TABLE if tied else BY_ROWS
    encoder = Plan("encoder", BY_ROWS, table, smoothed=True, steady=STEADY)
    if choice.method is Method.DYNAMIC:
        return replace(encoder, role="decoder", head=BY_ROWS), encoder
    head = HEADS[max(choice.bits, choice.head_bits)]
    blocks = Plan("decoder", Form(choice.bits, choice.block_size), head, smoothed=False)
    return blocks, replace(encoder, head=head)
