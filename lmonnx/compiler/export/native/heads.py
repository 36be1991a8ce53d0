"""What stands on an encoder, task by task; the families differ by tensor names and settings.

A head multiplies by Gemm, where layers do by MatMul, so it stays in float32 when layers are
quantized. All but the first-row heads lay the tokens of a batch in rows, (B·S, E), before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lmonnx.compiler.export.native import blocks
from lmonnx.compiler.export.native.blocks import Encoded, LayerSizes, Scope
from lmonnx.compiler.export.native.config import Config

TOKENS = ("batch_size", "sequence_length")


@dataclass(frozen=True, slots=True)
class Output:
    """A float32 output of the graph: its public name, the value it takes, and its axes."""

    name: str
    value: str
    shape: tuple[int | str, ...]


class Head(Protocol):
    """From what an encoder gives to the outputs of the graph."""

    def reads_first(self, config: Config) -> bool:
        """Say whether the head reads the first row alone."""
        ...

    def __call__(
        self, g: Scope, config: Config, encoded: Encoded, classes: int
    ) -> tuple[Output, ...]:
        """Append the head's nodes; return the outputs."""
        ...


@dataclass(frozen=True, slots=True)
class Transform:
    """norm(act(x·Wᵀ + b)): what a head computes before its last product.

    `setting`, `dense_bias` and `norm_bias` are fields of config.json: the activation's, and the
    flags that say whether there is a bias. Where they are empty it is fixed: `activation`, and yes.
    """

    dense: str
    activation: str
    setting: str = ""
    norm: str = ""
    dense_bias: str = ""
    norm_bias: str = ""

    def __call__(self, g: Scope, config: Config, x: str, sizes: LayerSizes, out: int) -> str:
        """Return the transformed rows: (rows, E) → (rows, out)."""
        bias = _has_bias(config, self.dense_bias)
        x = blocks.linear_row(g, x, self.dense, sizes.hidden, out, bias=bias)
        known = blocks.ACTIVATIONS
        name = config.choice(self.setting, known, self.activation) if self.setting else ""
        x = known[name or self.activation](g, x, f"{self.dense}.activation")
        if not self.norm:
            return x
        bias = _has_bias(config, self.norm_bias)
        return blocks.layer_norm(g, x, self.norm, out, sizes.epsilon, bias=bias)


def _has_bias(config: Config, flag: str, *, default: bool = False) -> bool:
    return config.flag(flag, default=default) if flag else True


@dataclass(frozen=True, slots=True)
class SequenceHead:
    """`logits` of a text, (B, C); `pooling` is the field of config.json that may ask for a mean."""

    transform: Transform
    out: str = "classifier"
    pooling: str = ""

    def reads_first(self, config: Config) -> bool:
        """Say whether the text's vector is its first token's."""
        if not self.pooling:
            return True
        return config.choice(self.pooling, ("cls", "mean"), "cls") == "cls"

    def __call__(
        self, g: Scope, config: Config, encoded: Encoded, classes: int
    ) -> tuple[Output, ...]:
        """Append pool → transform → product."""
        hidden = encoded.sizes.hidden
        x = encoded.x if self.reads_first(config) else _masked_mean(g, encoded.x)
        x = self.transform(g, config, x, encoded.sizes, hidden)
        logits = blocks.linear_row(g, x, self.out, hidden, classes)
        return (Output("logits", logits, ("batch_size", classes)),)


class _AllRows:
    """A head that reads every token."""

    __slots__ = ()

    def reads_first(self, config: Config) -> bool:
        """Say no."""
        del config
        return False


@dataclass(frozen=True, slots=True)
class TokenHead(_AllRows):
    """`logits` of every token, (B, S, C)."""

    transform: Transform | None = None
    out: str = "classifier"

    def __call__(
        self, g: Scope, config: Config, encoded: Encoded, classes: int
    ) -> tuple[Output, ...]:
        """Append rows → transform → product → (B, S, C)."""
        logits = _token_logits(g, config, encoded, self.transform, self.out, classes)
        return (Output("logits", _unflatten(g, logits, self.out, classes), (*TOKENS, classes)),)


@dataclass(frozen=True, slots=True)
class SpanHead(_AllRows):
    """`start_logits` and `end_logits` of an answer, (B, S) each."""

    transform: Transform | None = None
    out: str = "qa_outputs"

    def __call__(
        self, g: Scope, config: Config, encoded: Encoded, classes: int
    ) -> tuple[Output, ...]:
        """Append rows → transform → product → two halves."""
        del classes  # an answer has a start and an end
        logits = _token_logits(g, config, encoded, self.transform, self.out, 2)
        parts = blocks.split(g, logits, self.out, 1, 1)  # (B·S, 1) each
        shape = g.op("Shape", "input_ids", name=f"{self.out}/Shape")
        return tuple(
            Output(name, g.op("Reshape", part, shape, name=f"{self.out}/{name}"), TOKENS)
            for name, part in zip(("start_logits", "end_logits"), parts, strict=True)
        )


@dataclass(frozen=True, slots=True)
class MaskedHead(_AllRows):
    """`logits` of every token over the vocabulary, (B, S, V).

    Attributes:
        transform: Narrows to the width of the embeddings, N.
        decoder: The module of the last product; what its node and its own weights are named after.
        biases: Where the bias may be, of which the first is read; none where there is no bias.
        bias_flag: The field of config.json that says whether there is a bias, on where it is unset.
        words: The word embeddings, (V, N), which are the weights too where they are tied.
        always_tied: That the module has no weights of its own, whatever config.json says.
    """

    transform: Transform
    decoder: str
    biases: tuple[str, ...]
    bias_flag: str = ""
    words: str = "embeddings.word_embeddings.weight"
    always_tied: bool = False

    def __call__(
        self, g: Scope, config: Config, encoded: Encoded, classes: int
    ) -> tuple[Output, ...]:
        """Append rows → transform → product → (B, S, V)."""
        del classes  # the vocabulary is config.json's
        vocabulary, narrow = g.graph.initializers[self.words].dims
        x = _flatten(g, encoded, self.decoder)
        x = self.transform(g, config, x, encoded.sizes, narrow)
        inputs = [x, self._weight(g, config, vocabulary, narrow)]
        if _has_bias(config, self.bias_flag, default=True):
            bias = g.params.read_first(self.biases, vocabulary)
            inputs.append(g.graph.weight(self.biases[0], bias))
        # transB, so that one table serves the lookup and this product.
        logits = g.op("Gemm", *inputs, name=f"{self.decoder}/Gemm", transB=1)
        logits = _unflatten(g, logits, self.decoder, vocabulary)
        return (Output("logits", logits, (*TOKENS, vocabulary)),)

    def _weight(self, g: Scope, config: Config, vocabulary: int, narrow: int) -> str:
        if config.flag("tie_word_embeddings", default=True) or self.always_tied:
            return self.words
        name = f"{self.decoder}.weight"
        return g.graph.weight(name, g.params.read(name, vocabulary, narrow))


@dataclass(frozen=True, slots=True)
class SettingHead(_AllRows):
    """One of two heads, as a flag of config.json says that is on where it is unset."""

    setting: str
    on: Head
    off: Head

    def __call__(
        self, g: Scope, config: Config, encoded: Encoded, classes: int
    ) -> tuple[Output, ...]:
        """Append the head that is chosen."""
        head = self.on if config.flag(self.setting, default=True) else self.off
        return head(g, config, encoded, classes)


@dataclass(frozen=True, slots=True)
class HiddenStates(_AllRows):
    """`last_hidden_state`, (B, S, E): the encoder as it is."""

    def __call__(
        self, g: Scope, config: Config, encoded: Encoded, classes: int
    ) -> tuple[Output, ...]:
        """Append nothing."""
        del g, config, classes
        return (Output("last_hidden_state", encoded.x, (*TOKENS, encoded.sizes.hidden)),)


def _token_logits(
    g: Scope,
    config: Config,
    encoded: Encoded,
    transform: Transform | None,
    out: str,
    classes: int,
) -> str:
    """Return the logits of every token in a row: (B, S, E) → (B·S, C)."""
    sizes = encoded.sizes
    x = _flatten(g, encoded, out)
    if transform:
        x = transform(g, config, x, sizes, sizes.hidden)
    return blocks.linear_row(g, x, out, sizes.hidden, classes)


def _flatten(g: Scope, encoded: Encoded, name: str) -> str:
    """Lay the tokens in rows: (B, S, E) → (B·S, E)."""
    return g.op("Reshape", encoded.x, g.ints(-1, encoded.sizes.hidden), name=f"{name}/Rows")


def _unflatten(g: Scope, rows: str, name: str, size: int) -> str:
    """Undo `_flatten`: (B·S, size) → (B, S, size)."""
    shape = g.op("Shape", "input_ids", name=f"{name}/Shape")
    shape = g.op("Concat", shape, g.ints(size), name=f"{name}/Shape3", axis=0)
    return g.op("Reshape", rows, shape, name=f"{name}/Reshape")


def _masked_mean(g: Scope, x: str) -> str:
    """Return the mean of the rows that are not padding: (B, S, E) → (B, E)."""
    kept = g.op("Cast", "attention_mask", name="pooling/Cast", to=1)
    weights = g.op("Unsqueeze", kept, g.ints(2), name="pooling/Unsqueeze")
    product = g.op("Mul", x, weights, name="pooling/Mul")
    total = g.op("ReduceSum", product, g.ints(1), name="pooling/Sum", keepdims=0)
    count = g.op("ReduceSum", kept, g.ints(1), name="pooling/Count", keepdims=1)
    return g.op("Div", total, count, name="pooling/Div")
