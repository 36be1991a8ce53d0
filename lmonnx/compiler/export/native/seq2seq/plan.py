"""What an encoder-decoder is, read from config.json: plain values that become two graphs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lmonnx.compiler.export.native.decoders.plan import FeedForward, Norm

_STEP = 8  # heads of onnxruntime's GroupQueryAttention come in these


@dataclass(frozen=True, slots=True)
class Heads:
    """H heads of D that read vectors E wide; softmax takes `scale` times query and key."""

    wide: int
    count: int
    size: int
    scale: float
    bias: bool

    @property
    def inner(self) -> int:
        """Return H·D."""
        return self.count * self.size

    @property
    def filled(self) -> int:
        """Return D in the graphs: zeros fill heads up to what the kernel takes."""
        return -(-self.size // _STEP) * _STEP


@dataclass(frozen=True, slots=True)
class Modules:
    """The modules of a layer; those of cross attention are the decoder's alone."""

    qkv: tuple[str, str, str]
    out: str
    attention_norm: str
    cross_qkv: tuple[str, str, str]
    cross_out: str
    cross_norm: str
    ffn_norm: str


class Positions(StrEnum):
    """What is added to words for their place."""

    LEARNED = "learned"  # a table of the checkpoint
    SINUSOIDAL = "sinusoidal"  # a table of the checkpoint where it has one, else computed
    COUNTED = "counted"  # computed, and padding has the zeros of a place of its own


@dataclass(frozen=True, slots=True)
class PositionTable:
    """Places as vectors: `rows` of them from row `first` of the table on."""

    kind: Positions
    module: str
    rows: int
    first: int = 0
    pad_id: int | None = None


@dataclass(frozen=True, slots=True)
class Distances:
    """T5's part of the scores: a number a head for each bucket of distances."""

    module: str
    buckets: int
    farthest: int  # distances from here on share a bucket
    both_ways: bool


@dataclass(frozen=True, slots=True)
class Stack:
    """An encoder, or a decoder: `count` layers below `layers`, E wide, over V words.

    Attributes:
        words: The modules that may hold its table of words; the first that there is counts.
        words_factor: Is multiplied into words.
        norm_first: Parts read normalized vectors, else what they give is normalized.
        embedding_norm: Normalizes words and positions; "" is none.
        final_norm: Normalizes the last layer's output; "" is none.
    """

    layers: str
    count: int
    hidden: int
    vocabulary: int
    heads: Heads
    ffn: FeedForward
    modules: Modules
    words: tuple[str, ...]
    epsilon: float
    norm: Norm = Norm.LAYER
    words_factor: float = 1.0
    norm_first: bool = False
    embedding_norm: str = ""
    final_norm: str = ""
    positions: PositionTable | None = None
    distances: Distances | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Vectors → logits: factor · x·W + b.

    `tied` is a table of words as W; `bias` is a tensor of the checkpoint that may be missing, ""
    where the family has none.
    """

    tied: bool
    module: str
    factor: float = 1.0
    bias: str = ""


@dataclass(frozen=True, slots=True)
class EncoderDecoder:
    """Both stacks; a source has at most `source` tokens, an answer `context`."""

    encoder: Stack
    decoder: Stack
    head: Head
    source: int
    context: int
