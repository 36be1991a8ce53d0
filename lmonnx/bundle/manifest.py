"""lmonnx.json as frozen dataclasses: what is in a bundle, how it is run, how it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from lmonnx.bundle.fields import decode, encode
from lmonnx.bundle.generation import CacheSpec as CacheSpec
from lmonnx.bundle.generation import Generation as Generation
from lmonnx.bundle.generation import Languages as Languages
from lmonnx.bundle.generation import Place as Place
from lmonnx.bundle.generation import Seq2Seq as Seq2Seq
from lmonnx.bundle.generation import ShortlistSpec as ShortlistSpec
from lmonnx.bundle.graphs import GraphSpec as GraphSpec
from lmonnx.bundle.graphs import RowWeights as RowWeights
from lmonnx.bundle.graphs import Span as Span
from lmonnx.bundle.graphs import TensorSpec as TensorSpec
from lmonnx.errors import BundleError

FORMAT = 1
MANIFEST = "lmonnx.json"


class Task(StrEnum):
    """What a bundle answers, in Hugging Face's names."""

    TEXT_CLASSIFICATION = "text-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105
    QUESTION_ANSWERING = "question-answering"
    FILL_MASK = "fill-mask"
    ZERO_SHOT_CLASSIFICATION = "zero-shot-classification"
    FEATURE_EXTRACTION = "feature-extraction"
    TEXT_RANKING = "text-ranking"
    TEXT_GENERATION = "text-generation"
    TRANSLATION = "translation"
    SUMMARIZATION = "summarization"
    TEXT_TO_TEXT = "text2text-generation"


class Precision(StrEnum):
    """The narrowest type of the weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    INT4 = "int4"


class Activation(StrEnum):
    """What turns logits into scores."""

    SOFTMAX = "softmax"  # one label of several
    SIGMOID = "sigmoid"  # each label for itself
    NONE = "none"  # regression: the logit is the answer


class Pooling(StrEnum):
    """How the vectors of a text's tokens become one vector."""

    CLS = "cls"  # the first token's
    MEAN = "mean"
    MEAN_SQRT = "mean-sqrt"  # the sum over the square root of the number of tokens
    MAX = "max"
    LAST = "last"  # the last token's
    WEIGHTED_MEAN = "weighted-mean"  # token i counts i times, i from 1
    NONE = "none"  # the graph gives one vector a text


class Similarity(StrEnum):
    """What two vectors are compared by."""

    COSINE = "cosine"
    DOT = "dot"
    EUCLIDEAN = "euclidean"  # negated, so that more is nearer
    MANHATTAN = "manhattan"  # negated too


class Side(StrEnum):
    """Where padding goes, and where text that is too long is cut."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, slots=True)
class Source:
    """The checkpoint that a bundle was made from."""

    repo: str
    revision: str
    architecture: str
    license: str


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """A tokenizer file and what the model's padding looks like."""

    file: str
    pad_id: int
    padding_side: Side = Side.RIGHT
    truncation_side: Side = Side.RIGHT
    pad_type_id: int = 0
    one_type: bool | None = None  # every token has type 0, whatever the tokenizer's template says
    id_map: str | None = None  # file of how ids come from the tokenizer (decision 14)
    mask_token: str | None = None
    unk_token: str | None = None
    clean_up_spaces: bool | None = None  # decoded text loses the spaces before punctuation


@dataclass(frozen=True, slots=True)
class TextSpec:
    """How text becomes `input_ids`: at most `max_length` of them, special tokens included."""

    source: TokenizerSpec
    max_length: int
    target: TokenizerSpec | None = None  # where it is not the source's


@dataclass(frozen=True, slots=True)
class Head:
    """What the outputs mean: the labels by index, and how logits become scores."""

    labels: tuple[str, ...]
    activation: Activation


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer after pooling: `file` holds (inputs + 1, outputs) float32, its last row the bias."""

    file: str
    activation: str  # identity, tanh, relu, gelu or sigmoid


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """How outputs become one vector a text: pooling (several are joined), dense layers, norm.

    `prompts` stand before a text, chosen by name; `default_prompt` is the name used unasked.
    """

    pooling: tuple[Pooling, ...]
    dimension: int
    normalize: bool
    dense: tuple[Dense, ...] = ()
    similarity: Similarity = Similarity.COSINE
    prompts: Mapping[str, str] | None = None
    default_prompt: str | None = None
    include_prompt: bool = True  # the prompt's tokens are pooled too
    lower_case: bool = False  # text is lowered before it is tokenized


@dataclass(frozen=True, slots=True)
class Parity:
    """How far outputs are from a reference's on the same texts.

    `max_difference` is max |Δlogit| and `relative` that over the reference logits' range;
    `agreement` is the share of texts with the same label, `clear_agreement` that among the texts
    that the reference does not leave nearly tied.
    """

    reference: str
    texts: int
    max_difference: float
    relative: float
    agreement: float
    clear_agreement: float = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a stage: with what options and versions, and how its result was measured."""

    stage: str
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    parity: tuple[Parity, ...] = ()
    metrics: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """The size and hash that a file must have."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that the runtime needs to know of a bundle, and all that was done to make it."""

    task: Task
    precision: Precision
    source: Source
    graphs: Mapping[str, GraphSpec]
    text: TextSpec
    head: Head | None = None
    embedding: EmbeddingSpec | None = None
    generation: Generation | None = None
    files: Mapping[str, FileInfo] | None = None
    history: tuple[Step, ...] = ()
    format: int = FORMAT
    checksum: str = field(default="", compare=False)  # of all else, made when it is written

    def with_step(self, step: Step) -> Manifest:
        """Return a copy whose history ends in `step`."""
        return replace(self, history=(*self.history, step))

    def replace_graph(self, graph: GraphSpec, *, precision: Precision | None = None) -> Manifest:
        """Return a copy with another graph of the same interface, its files not yet hashed."""
        return self.replace_graphs({"model": graph}, precision=precision)

    def replace_graphs(
        self, graphs: Mapping[str, GraphSpec], *, precision: Precision | None = None
    ) -> Manifest:
        """Return a copy with other graphs by role, their files not yet hashed."""
        kept = precision or self.precision
        return replace(self, graphs=graphs, precision=kept, files=None)

    def to_json(self) -> str:
        """Return the text of lmonnx.json: the same manifest gives the same bytes."""
        fields = encode(self)
        fields["checksum"] = checksum_of(fields)
        return json.dumps(fields, indent=2, ensure_ascii=False, sort_keys=True) + "\n"

    def is_intact(self) -> bool:
        """Say whether this is what was written, to the last label and number."""
        return self.checksum == checksum_of(encode(self))

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Read lmonnx.json.

        Raises:
            BundleError: The text is no manifest, or one of a newer format.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{where} is not JSON ({error}); export the bundle again") from error
        if not isinstance(value, dict) or type(value.get("format")) is not int:
            raise BundleError(f"{where} states no format number, so it is no bundle's manifest")
        if value["format"] != FORMAT:
            raise BundleError(
                f"{where} is of format {value['format']}, this lmonnx reads format {FORMAT}; "
                "install a newer lmonnx or export the bundle again"
            )
        try:
            return decode(cls, value, MANIFEST)
        except ValueError as error:
            raise BundleError(f"{where} is not a valid manifest: {error}") from error


def checksum_of(fields: Mapping[str, Any]) -> str:
    """Return the sha256 of a manifest's fields but for `checksum`, whatever their order."""
    kept = {name: value for name, value in fields.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
