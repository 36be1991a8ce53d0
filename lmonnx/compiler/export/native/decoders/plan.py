"""What a decoder is, read from config.json: plain values that the builder turns into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lmonnx.compiler.export.native.decoders.rope import Rope

_STEP = 16


class Norm(StrEnum):
    """How a vector is normalized."""

    RMS = "rms"  # x / rms(x) · w  (Zhang and Sennrich, arXiv:1910.07467)
    SHIFTED_RMS = "shifted-rms"  # the same by 1 + w: Gemma
    LAYER = "layer"  # (x - mean(x)) / std(x) · w + b


@dataclass(frozen=True, slots=True)
class Product:
    """x·W + b of a layer.

    Attributes:
        module: What its node is called.
        parts: The modules that are stacked into it, where they are several.
        bias: That there is one.
        factor: Is multiplied into the weights.
        by_columns: The checkpoint stores (in, out), as GPT-2 does, and not torch's (out, in).
        by_head: How many heads there are, where each has its query, key and value side by side.
    """

    module: str
    parts: tuple[str, ...] = ()
    bias: bool = False
    factor: float = 1.0
    by_columns: bool = False
    by_head: int = 0


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention: H query heads and K key-value heads of D."""

    heads: int
    kv_heads: int
    head: int
    scale: float  # of the scores
    qkv: Product
    out: Product
    softcap: float = 0.0  # scores become cap · tanh(scores / cap); 0 leaves them
    head_norms: tuple[str, ...] = ()  # the modules that normalize each query and each key


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(act(gate) · up), or down(act(up)) where it is not gated; F units."""

    size: int
    activation: str
    up: Product  # with the gate's rows first where it is gated
    down: Product
    gated: bool = True


class Normalizes(Protocol):
    """What norms are written by."""

    @property
    def norm(self) -> Norm:
        """Return how."""

    @property
    def epsilon(self) -> float:
        """Return what is added to the variance."""


class Feeds(Protocol):
    """What feed-forwards are written by."""

    @property
    def ffn(self) -> FeedForward:
        """Return which."""

    @property
    def hidden(self) -> int:
        """Return E."""


@dataclass(frozen=True, slots=True)
class Names:
    """The modules of a checkpoint; those of a layer are below `layers`.N."""

    words: str = "model.embed_tokens"
    layers: str = "model.layers"
    attention_norm: str = "input_layernorm"
    ffn_norm: str = "post_attention_layernorm"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    positions: str = ""  # a table of learned positions
    attention_post_norm: str = ""  # norms of what attention and feed-forward give
    ffn_post_norm: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """What differs from layer to layer: its table of rotations, and how far back it looks.

    `rope` "" leaves queries and keys as they are; `window` counts the token itself, 0 is all.
    """

    rope: str = "rope"
    window: int = 0


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder of V words and E wide, for at most `context` tokens.

    `cached` says that a call goes on from what is in a cache; else it holds whole texts.
    """

    vocabulary: int
    hidden: int
    context: int
    epsilon: float
    layers: tuple[Layer, ...]
    attention: Attention
    ffn: FeedForward
    ropes: Mapping[str, Rope] = field(default_factory=dict)
    names: Names = field(default_factory=Names)
    norm: Norm = Norm.RMS
    tied: bool = False  # the head's matrix is the embedding table
    parallel: bool = False  # attention and feed-forward read the same vector
    words_factor: float = 1.0
    logits_factor: float = 1.0
    logits_cap: float = 0.0
    cached: bool = True

    def turns_in_kernel(self, layer: Layer) -> bool:
        """Say whether the attention kernel turns a layer's heads itself.

        Of onnxruntime 1.32's, on the CPU, heads and what is turned of them come in 16s.
        """
        rotated = 2 * len(self.ropes[layer.rope].frequencies)
        return self.attention.head % _STEP == 0 and rotated % _STEP == 0
