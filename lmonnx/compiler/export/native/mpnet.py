"""MPNet: RoBERTa's positions, and a bias on the scores for every distance between two tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmonnx.compiler.export.native import bert, blocks
from lmonnx.compiler.export.native.blocks import Encoded, LayerNames, LayerSizes, Scope
from lmonnx.compiler.export.native.config import Config

_NAMES = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    ffn_norm="output.LayerNorm",
)
# Fixed in transformers' code: a config with more buckets has a longer table, and uses these.
_PADDING = 1
_BUCKETS = 32


def encode_mpnet(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return MPNetModel's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = bert.encoder_sizes(config)
    x = _embeddings(g, config, sizes)
    mask = blocks.additive_mask(g, "attention_mask")
    mask = g.op("Add", _position_bias(g, config, sizes.heads), mask, name="mask/AddPositions")
    first_mask = _first_query(g, mask) if first else None
    count, prefix = config.integer("num_hidden_layers"), "encoder.layer."
    return blocks.encode(
        g, x, mask, count, prefix, _NAMES, sizes, first=first, first_mask=first_mask
    )


def _embeddings(g: Scope, config: Config, sizes: LayerSizes) -> str:
    """Return norm(word + position): (B, S, E)."""
    config.only("pad_token_id", _PADDING)
    rows, vocabulary = config.integer("max_position_embeddings"), config.integer("vocab_size")
    ids = bert.positions_after_padding(g, _PADDING)
    name = "embeddings.position_embeddings"
    positions = blocks.embedding(g, ids, name, rows, sizes.hidden)
    return blocks.word_and_position(g, vocabulary, positions, sizes.hidden, sizes.epsilon)


def _position_bias(g: Scope, config: Config, heads: int) -> str:
    """Return what a head adds to the score of a query and a key: (H, S, S).

    The table holds every distance that the positions allow, so the graph computes no logarithm.
    """
    name = "encoder.relative_attention_bias"
    buckets = config.integer("relative_attention_num_buckets", _BUCKETS, least=_BUCKETS)
    farthest = config.integer("max_position_embeddings") - 1
    places = distance_buckets(np.arange(-farthest, farthest + 1))
    by_distance = g.params.read(f"{name}.weight", buckets, heads)[places].T  # (H, distances)
    table = g.graph.weight(f"{name}.by_distance", by_distance)
    shape = g.op("Shape", "input_ids", name=f"{name}/Shape", start=1, end=2)
    length = g.op("Squeeze", shape, g.ints(0), name=f"{name}/Length")
    zero, one = (g.graph.const(value, np.int64) for value in (0, 1))
    keys = g.op("Range", zero, length, one, name=f"{name}/Range")  # (S,)
    queries = g.op("Unsqueeze", keys, g.ints(1), name=f"{name}/Queries")  # (S, 1)
    distance = g.op("Sub", keys, queries, name=f"{name}/Distance")  # (S, S)
    place = g.op("Add", distance, g.ints(farthest), name=f"{name}/Place")
    return g.op("Gather", table, place, name=f"{name}/Gather", axis=1)


def distance_buckets(distances: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of the bias table for each distance, the key's position minus the query's.

    Keys after the query have the upper half of the 32. In each half, distances below 8 have a
    bucket each; then there are two for every doubling, up to 15.

    Source:
        transformers, `MPNetEncoder.relative_position_bucket`, with 32 buckets and 128 as the
        farthest distance: log(n/8) / log(16) · 8 = log₂(n²/64), here without a rounding.
    """
    upper, half = np.where(distances > 0, _BUCKETS // 2, 0), _BUCKETS // 2
    near = np.abs(distances)
    doublings = np.frexp(np.maximum(near, 1) ** 2 / 64)[1] - 1  # floor(log₂(n²/64))
    far = np.minimum(8 + doublings, half - 1)
    return upper + np.where(near < 8, near, far)


def _first_query(g: Scope, mask: str) -> str:
    """Keep the first query of a mask: (B, H, S, S) → (B, H, 1, S)."""
    return g.op("Slice", mask, g.ints(0), g.ints(1), g.ints(2), name="mask.first/Slice")
