"""DeBERTa v2 and v3: BERT's layers with attention to content and distance apart.

Source:
    He et al., "DeBERTa" (arXiv:2006.03654) and "DeBERTaV3" (arXiv:2111.09543); transformers,
    `deberta_v2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lmonnx.compiler.export.native import blocks, relative
from lmonnx.compiler.export.native.blocks import Encoded, LayerNames, LayerSizes, Scope
from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.relative import Distances, Table
from lmonnx.errors import StageError, UnsupportedError

_NAMES = LayerNames(
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    attention_out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    ffn_in="intermediate.dense",
    ffn_out="output.dense",
    ffn_norm="output.LayerNorm",
)
# Of training and of heads; the last is written by older versions, read by none.
_INERT = ("pooler_dropout", "cls_dropout", "legacy", "pooler_hidden_act", "position_embedding_type")
_OWN = {"c2p": "attention.self.pos_key_proj", "p2c": "attention.self.pos_query_proj"}
_SHARED = {"c2p": _NAMES.key, "p2c": _NAMES.query}


def encode_deberta(g: Scope, config: Config, *, first: bool) -> Encoded:
    """Return DebertaV2Model's last hidden states: (B, S) → (B, S, E), or (B, E) if `first`."""
    sizes = _read_sizes(config)
    kept = _kept(g)
    attention = _read_attention(g, config, sizes)
    embedded = _embeddings(g, config, sizes, kept)
    # transformers masks the rows of padding too, but no other row ever reads these.
    mask = blocks.additive_mask(g, "attention_mask")
    convolved = config.integer("conv_kernel_size", 0, least=0) > 0
    config.inert("conv_groups", "conv_act")  # read where there is a convolution
    layers = config.integer("num_hidden_layers")
    x = embedded
    for layer in range(layers):
        # The convolution reads all rows of the first layer, so they are cut after it.
        alone = first and layer == layers - 1 and not (convolved and layer == 0)
        rows = blocks.first_row(g, x, "encoder.first") if alone else x
        prefix = f"encoder.layer.{layer}."
        x = blocks.post_norm_layer(
            g, x, mask, prefix, _NAMES, sizes, rows=rows, attention=attention
        )
        if convolved and layer == 0:
            x = _convolution(g, config, sizes, embedded, x, kept)
    if first and convolved and layers == 1:
        x = blocks.first_row(g, x, "encoder.first")
    return Encoded(blocks.drop_axis(g, x, "encoder.first") if first else x, sizes)


def _read_sizes(config: Config) -> LayerSizes:
    config.inert(*_INERT)
    for name in ("is_decoder", "add_cross_attention", "is_encoder_decoder"):
        config.only(name, False)
    config.only("pruned_heads", {})
    sizes = LayerSizes(
        hidden=config.integer("hidden_size"),
        intermediate=config.integer("intermediate_size"),
        heads=config.divisor("num_attention_heads", "hidden_size"),
        epsilon=config.number("layer_norm_eps", 1e-7),
        activation=config.choice("hidden_act", blocks.ACTIVATIONS, "gelu"),
    )
    config.only("attention_head_size", sizes.head)
    config.only("pooler_hidden_size", sizes.hidden)
    return sizes


def _kept(g: Scope) -> str:
    """Return 1 where there is a token and 0 where there is padding: (B, S) → (B, S, 1)."""
    kept = g.op("Cast", "attention_mask", name="kept/Cast", to=1)
    return g.op("Unsqueeze", kept, g.ints(2), name="kept/Unsqueeze")


def _embeddings(g: Scope, config: Config, sizes: LayerSizes, kept: str) -> str:
    """Return norm((word + position + type)·W), 0 at padding: (B, S, E)."""
    scope = "embeddings"
    config.integer("pad_token_id", 0, least=0)
    narrow = config.integer("embedding_size", sizes.hidden)
    vocabulary = config.integer("vocab_size")
    x = blocks.embedding(g, "input_ids", f"{scope}.word_embeddings", vocabulary, narrow)
    if config.flag("position_biased_input", default=True):
        rows = config.integer("max_position_embeddings", 512)
        name = f"{scope}.position_embeddings"
        positions = blocks.first_positions(g, "input_ids", name, rows, narrow)
        x = g.op("Add", x, positions, name=f"{scope}/AddPositions")
    if types := config.integer("type_vocab_size", 0, least=0):
        # Only such a model takes token types, so only its graph has the input.
        ids = g.graph.input("token_type_ids", np.int64, ("batch_size", "sequence_length"))
        kinds = blocks.embedding(g, ids, f"{scope}.token_type_embeddings", types, narrow)
        x = g.op("Add", x, kinds, name=f"{scope}/AddTypes")
    if narrow != sizes.hidden:
        x = blocks.linear(g, x, f"{scope}.embed_proj", narrow, sizes.hidden, bias=False)
    x = blocks.layer_norm(g, x, f"{scope}.LayerNorm", sizes.hidden, sizes.epsilon)
    return g.op("Mul", x, kept, name=f"{scope}/Keep")


@dataclass(frozen=True, slots=True)
class _Attention:
    """Attention of every layer: `projections` says by which module a kind of score is projected."""

    scale: float
    projections: Mapping[str, str]
    table: Table
    distances: Distances | None

    def __call__(
        self,
        g: Scope,
        rows: str,
        x: str,
        mask: str,
        prefix: str,
        names: LayerNames,
        sizes: LayerSizes,
    ) -> str:
        """Return the attended rows; see `blocks.self_attention`."""
        scope = f"{prefix}attention"
        q = blocks.project_heads(g, rows, prefix + names.query, sizes, [0, 2, 1, 3])
        k = blocks.project_heads(g, x, prefix + names.key, sizes, [0, 2, 1, 3])
        v = blocks.project_heads(g, x, prefix + names.value, sizes, [0, 2, 1, 3])
        biases: list[str] = []
        if self.distances is not None:
            tables = {
                kind: relative.project_table(g, self.table, prefix + name, sizes, self.scale)
                for kind, name in self.projections.items()
            }
            whole = rows == x
            score = relative.position_scores if whole else relative.first_position_scores
            biases = score(g, q, k, tables, self.distances, scope)
        k = g.op("Transpose", k, name=f"{scope}/Keys", perm=[0, 1, 3, 2])
        return blocks.attend(g, q, k, v, mask, scope, sizes, scale=self.scale, biases=biases)


def _read_attention(g: Scope, config: Config, sizes: LayerSizes) -> _Attention:
    kinds = _kinds(config)
    scale = 1 / math.sqrt(sizes.head * (1 + len(kinds)))
    shared = config.flag("share_att_key", default=False)
    spelled = config.choice("norm_rel_ebd", ("none", "layer_norm"), "none")
    positions = config.integer("max_position_embeddings", 512)
    farthest = config.integer("max_relative_positions", -1, least=-1)
    buckets = config.integer("position_buckets", -1, least=-1)
    if not config.flag("relative_attention", default=False) or not kinds:
        return _Attention(scale, {}, np.empty((0, sizes.hidden), np.float32), None)
    farthest = farthest if farthest > 0 else positions
    buckets = max(buckets, 0)
    if buckets and not 1 < buckets // 2 + 1 < farthest:
        raise UnsupportedError(
            f"config.json: position_buckets is {buckets} for max_relative_positions {farthest}; "
            "at least 2, and half of it under that less 1, are supported. Try --engine optimum"
        )
    span = buckets or farthest
    table = _rel_embeddings(g, span, sizes, normed=spelled == "layer_norm")
    rows = relative.bucket_rows(positions, span, buckets, farthest)
    names = _SHARED if shared else _OWN
    projections = {kind: names[kind] for kind in kinds}
    return _Attention(scale, projections, table, relative.read_distances(g, rows))


def _kinds(config: Config) -> list[str]:
    """Return which of c2p and p2c there are."""
    kinds = sorted(set(config.words("pos_att_type")))
    if unknown := set(kinds) - _OWN.keys():
        raise UnsupportedError(
            f"config.json: pos_att_type has {', '.join(sorted(unknown))}; supported: c2p, p2c. "
            "Try --engine optimum"
        )
    return kinds


def _rel_embeddings(g: Scope, span: int, sizes: LayerSizes, *, normed: bool) -> Table:
    """Return the table of distances, normalized now if it is at all: (2·span, E)."""
    table = g.params.read("encoder.rel_embeddings.weight", 2 * span, sizes.hidden)
    if not normed:
        return table
    exact = table.astype(np.float64)
    centered = exact - exact.mean(axis=1, keepdims=True)
    deviation = np.sqrt(exact.var(axis=1, keepdims=True) + sizes.epsilon)
    weight = g.params.read("encoder.LayerNorm.weight", sizes.hidden)
    bias = g.params.read("encoder.LayerNorm.bias", sizes.hidden)
    normalized: Table = (centered / deviation * weight + bias).astype(np.float32)
    return normalized


def _convolution(
    g: Scope, config: Config, sizes: LayerSizes, x: str, residual: str, kept: str
) -> str:
    """Return norm(residual + act(conv(x))), 0 at padding: (B, S, E)."""
    scope, hidden = "encoder.conv", sizes.hidden
    kernel = config.integer("conv_kernel_size", 3)
    groups = config.integer("conv_groups", 1)
    if hidden % groups or not kernel % 2:
        raise StageError(
            f"config.json: conv_kernel_size is {kernel}, must be odd, and conv_groups is {groups}, "
            f"must divide hidden_size {hidden}"
        )
    name = f"{scope}.conv.weight"
    weight = g.graph.weight(name, g.params.read(name, hidden, hidden // groups, kernel))
    bias = blocks.vector(g, f"{scope}.conv.bias", hidden)
    columns = g.op("Transpose", x, name=f"{scope}/In", perm=[0, 2, 1])
    around = [kernel // 2, kernel // 2]
    out = g.op("Conv", columns, weight, bias, name=f"{scope}/Conv", pads=around, group=groups)
    out = g.op("Transpose", out, name=f"{scope}/Out", perm=[0, 2, 1])
    # Where, not Mul: onnxruntime takes a Mul before a GELU for a part of it, and fuses none.
    token = g.op("Cast", kept, name=f"{scope}/Cast", to=9)
    out = g.op("Where", token, out, g.floats(0.0), name=f"{scope}/KeepIn")
    activation = config.choice("conv_act", blocks.ACTIVATIONS, "tanh")
    out = blocks.ACTIVATIONS[activation](g, out, f"{scope}.activation")
    out = g.op("Add", residual, out, name=f"{scope}/Residual")
    out = blocks.layer_norm(g, out, f"{scope}.LayerNorm", hidden, sizes.epsilon)
    return g.op("Mul", out, kept, name=f"{scope}/KeepOut")
