"""A SentencePiece model → the fast tokenizer that transformers converts it to.

Source:
    transformers 4.57, `convert_slow_tokenizer`. Where that differs from SentencePiece itself, this
    follows transformers: docs/decisions/0008-sentencepiece.md says where.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from tokenizers.processors import TemplateProcessing

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.checkpoint.merges import scored_merges
from lmonnx.compiler.export.added_tokens import STRIP_MASK, add_tokens, special_tokens, token_id
from lmonnx.compiler.export.sentencepiece_model import (
    Algorithm,
    PieceType,
    SentencePieceModel,
    read_model,
)
from lmonnx.errors import StageError

Vocabulary = list[tuple[str, float]]
Settings = Mapping[str, Any]
_SPACE = "▁"


@dataclass(frozen=True, slots=True)
class SentencePieceClass:
    """What one tokenizer class of transformers makes of a model.

    Attributes:
        file: The name of the model in a checkpoint.
        special: Its special tokens by role.
        single: Its post-processor for one text.
        pair: That for two.
        vocabulary: The pieces by the ids that the checkpoint's embeddings have, of a model and
            the settings.
        normalizer: What is done to text before it is cut at spaces.
        unknown_id: In the new vocabulary, of a model and the settings.
        flags: How the tokens of some roles are matched.
        switches: The settings it knows, with their defaults.
        additional: Further special tokens, of the settings.
        prepends: Where a space goes before text, of the settings: "always", "first" or "never".
        by_whitespace: Text is cut at all white space first.
    """

    file: str
    special: Mapping[str, str]
    single: str
    pair: str
    vocabulary: Callable[[SentencePieceModel, Settings], Vocabulary]
    normalizer: Callable[[bytes, Mapping[str, bool]], list[Any]]
    unknown_id: Callable[[SentencePieceModel, Settings], int] = lambda model, _: model.unknown_id
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=lambda: STRIP_MASK)
    switches: Mapping[str, bool] = field(default_factory=dict)
    additional: Callable[[Settings], Sequence[str]] = lambda _: ()
    prepends: Callable[[Settings], str] = lambda _: "always"
    by_whitespace: bool = False

    def build(self, checkpoint: Checkpoint, settings: Settings) -> Tokenizer:
        """Return the tokenizer of a checkpoint that holds `file`.

        Raises:
            StageError: A file is damaged, or the parts do not fit together.
            UnsupportedError: The model is of a kind that is not built here.
        """
        model = read_model(checkpoint.path / self.file)
        switches = _switches(settings, self.switches)
        try:
            tokenizer = Tokenizer(self._model(model, settings))
            steps = self.normalizer(model.charsmap, switches)
        except Exception as error:  # the package raises plain Exception
            said = " ".join(str(error).split())
            raise StageError(f"{self.file} is not a usable model ({said})") from error
        tokenizer.add_tokens(list(added_pieces(model)))
        tokenizer.normalizer = normalizers.Sequence(steps)
        scheme = self.prepends(settings)
        cut: list[Any] = [pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme)]
        if self.by_whitespace:
            cut.insert(0, pre_tokenizers.WhitespaceSplit())
        if switches.get("split_by_punct"):
            cut.insert(0, pre_tokenizers.Punctuation("isolated"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut) if len(cut) > 1 else cut[0]
        tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme=scheme)
        self._add_special(tokenizer, checkpoint, settings)
        return tokenizer

    def _model(self, model: SentencePieceModel, settings: Settings) -> Any:
        vocabulary = self.vocabulary(model, settings)
        if model.algorithm is Algorithm.UNIGRAM:
            unknown = self.unknown_id(model, settings)
            return models.Unigram(vocabulary, unknown, byte_fallback=False)
        by_text = {text: index for index, (text, _) in enumerate(vocabulary)}
        if model.unknown not in by_text:
            raise ValueError(f"it has no piece {model.unknown!r}, the unknown one")
        ids = {piece.text: index for index, piece in enumerate(model.pieces)}
        merges = scored_merges(dict(vocabulary), ids)
        return models.BPE(by_text, merges, unk_token=model.unknown, fuse_unk=True)

    def _add_special(
        self, tokenizer: Tokenizer, checkpoint: Checkpoint, settings: Settings
    ) -> None:
        special = special_tokens(checkpoint, settings, self.special, self.flags)
        add_tokens(tokenizer, checkpoint, settings, special)
        # One that is listed has its own spaces to strip, which another of its name would take away.
        listed = settings.get("added_tokens_decoder") or {}
        known = {token.get("content") for token in listed.values()}
        more = [token for token in self.additional(settings) if token not in known]
        tokenizer.add_special_tokens(more)
        # Named by the class, whatever the settings name: so does transformers.
        named = {part.partition(":")[0] for part in self.single.split()}
        ends = sorted(token for token in named if not token.startswith("$"))
        tokenizer.post_processor = TemplateProcessing(
            single=self.single,
            pair=self.pair,
            special_tokens=[(token, token_id(tokenizer, token)) for token in ends],
        )


def _switches(settings: Settings, defaults: Mapping[str, bool]) -> dict[str, bool]:
    found = {name: settings.get(name, default) for name, default in defaults.items()}
    for name, value in found.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {value!r:.40}, not true or false")
    return found


def added_pieces(
    model: SentencePieceModel, *, special: Collection[str] = ()
) -> Iterator[AddedToken]:
    """Yield the pieces that are matched in the text as they stand; `special` are so too."""
    for piece in model.pieces:
        if piece.type in {PieceType.CONTROL, PieceType.USER_DEFINED}:
            marked = piece.type is PieceType.CONTROL or piece.text in special
            yield AddedToken(piece.text, normalized=False, special=marked)


# Vocabularies ------------------------------------------------------------------------------------

FAIRSEQ = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
FAIRSEQ_UNKNOWN = 3
# CamemBERT's model has <s>, </s> and <unk> of its own; the embeddings have rows for both.
_CAMEMBERT = [
    ("<s>NOTUSED", 0.0),
    ("<pad>", 0.0),
    ("</s>NOTUSED", 0.0),
    ("<unk>", 0.0),
    ("<unk>NOTUSED", -100.0),
]


def pieces(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    """Return a model's pieces as they are."""
    return [(piece.text, piece.score) for piece in model.pieces]


def _without_number_commas(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    """Make pieces such as "9," too costly to be taken: ALBERT's model keeps digits and commas."""
    return [
        (text, score - 100 if len(text) > 1 and text[-1] == "," and text[-2].isdigit() else score)
        for text, score in pieces(model, settings)
    ]


def _fairseq(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    return [*FAIRSEQ, *pieces(model, settings)[3:], ("<mask>", 0.0)]


def _camembert(model: SentencePieceModel, settings: Settings) -> Vocabulary:
    return [*_CAMEMBERT, *pieces(model, settings)[1:], ("<mask>", 0.0)]


def _camembert_unused(settings: Settings) -> Sequence[str]:
    stated = "additional_special_tokens" in settings
    return () if stated else ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")


# Normalizers -------------------------------------------------------------------------------------


def _charsmap(data: bytes) -> list[Any]:
    return [normalizers.Precompiled(data)] if data else []


def plain_text(charsmap: bytes, switches: Mapping[str, bool]) -> list[Any]:
    """Return the steps that most classes take."""
    strip = normalizers.Strip(left=False, right=True)
    return [*_charsmap(charsmap), strip, normalizers.Replace(Regex(" {2,}"), _SPACE)]


def _albert_text(charsmap: bytes, switches: Mapping[str, bool]) -> list[Any]:
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not switches["keep_accents"]:
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if switches["do_lower_case"]:
        steps.append(normalizers.Lowercase())
    return [*steps, *_charsmap(charsmap), normalizers.Replace(Regex(" {2,}"), " ")]


def _deberta_text(charsmap: bytes, switches: Mapping[str, bool]) -> list[Any]:
    lower = [normalizers.Lowercase()] if switches["do_lower_case"] else []
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    return [*lower, normalizers.Strip(), *_charsmap(charsmap), spaces]


# Classes -----------------------------------------------------------------------------------------

_ANGLES = {
    "bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>",
    "mask": "<mask>",
}  # fmt: skip
_BRACKETS = {
    "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]",
    "mask": "[MASK]",
}  # fmt: skip
_ANGLES_SINGLE, _ANGLES_PAIR = "<s> $A </s>", "<s> $A </s> </s> $B </s>"
_BRACKETS_SINGLE, _BRACKETS_PAIR = "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"

XLM_ROBERTA = SentencePieceClass(
    file="sentencepiece.bpe.model",
    special=_ANGLES,
    single=_ANGLES_SINGLE,
    pair=_ANGLES_PAIR,
    vocabulary=_fairseq,
    normalizer=plain_text,
    unknown_id=lambda *_: FAIRSEQ_UNKNOWN,
)
CAMEMBERT = SentencePieceClass(
    file="sentencepiece.bpe.model",
    special=_ANGLES,
    single=_ANGLES_SINGLE,
    pair=_ANGLES_PAIR,
    vocabulary=_camembert,
    normalizer=plain_text,
    unknown_id=lambda *_: FAIRSEQ_UNKNOWN,
    additional=_camembert_unused,
)
ALBERT = SentencePieceClass(
    file="spiece.model",
    special={**_BRACKETS, "unk": "<unk>", "pad": "<pad>"},
    single=_BRACKETS_SINGLE,
    pair=_BRACKETS_PAIR,
    vocabulary=_without_number_commas,
    normalizer=_albert_text,
    switches={"do_lower_case": True, "keep_accents": False},
)
DEBERTA_V2 = SentencePieceClass(
    file="spm.model",
    special=_BRACKETS,
    single=_BRACKETS_SINGLE,
    pair=_BRACKETS_PAIR,
    vocabulary=pieces,
    normalizer=_deberta_text,
    flags={"unk": {"normalized": True}},
    switches={"do_lower_case": False, "split_by_punct": False},
)
