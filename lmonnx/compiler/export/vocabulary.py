"""tokenizer.json, or vocabulary files → the tokenizer that transformers would make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export import byte_level_tokenizer as byte_level
from lmonnx.compiler.export import llama_tokenizer as llama
from lmonnx.compiler.export import sentencepiece_pairs as pairs
from lmonnx.compiler.export import sentencepiece_tokenizer as sentencepiece
from lmonnx.compiler.export.added_tokens import (
    STRIP_MASK,
    add_missing,
    add_tokens,
    special_tokens,
    token_id,
)
from lmonnx.errors import StageError, UnsupportedError

TOKENIZER = "tokenizer.json"
_BERT_TOKENS = {role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
_ROBERTA_TOKENS = {
    "bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>",
    "mask": "<mask>",
}  # fmt: skip


def read_tokenizer(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Tokenizer:
    """Return a checkpoint's tokenizer without padding and truncation.

    Args:
        checkpoint: Where the files are.
        settings: tokenizer_config.json, which rules over tokenizer.json.

    Raises:
        UnsupportedError: There is neither tokenizer.json nor a vocabulary we can build one from.
        StageError: A file is damaged.
    """
    tokenizer = _read(checkpoint, settings)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    add_missing(tokenizer, checkpoint, settings)
    return tokenizer


def _read(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Tokenizer:
    kind = _kind(checkpoint, settings)
    if tokenizer_class(checkpoint, settings) == "RoFormerTokenizer":
        raise UnsupportedError(
            "RoFormer's tokenizer cuts Chinese words by jieba, which no tokenizer.json can hold; "
            "it cannot be read here"
        )
    stored = checkpoint.json_file(TOKENIZER)
    built = kind is not None and kind.is_there(checkpoint)
    if stored is not None and not (kind and built and kind.rebuilt(settings)):
        if kind:
            kind.apply(stored, settings)
        try:
            return Tokenizer.from_str(json.dumps(stored))
        except Exception as error:  # the package raises plain Exception
            path = checkpoint.path / TOKENIZER
            raise StageError(f"{path} is not a tokenizer ({error}); fetch it again") from error
    if kind and built:
        try:
            return kind.build(checkpoint, settings)
        except (TypeError, ValueError, AttributeError) as error:
            raise StageError(f"tokenizer_config.json or added_tokens.json: {error}") from error
    wanted = " + ".join(kind.files) if kind else "a vocabulary that can be read here"
    raise UnsupportedError(
        f"{checkpoint.repo} has neither {TOKENIZER} nor {wanted}; save it once with "
        "transformers' fast tokenizer (tokenizer.save_pretrained)"
    )


def _wordpiece(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Tokenizer:
    """Build BertTokenizerFast's tokenizer from vocab.txt (transformers, `BertConverter`)."""
    special = special_tokens(checkpoint, settings, _BERT_TOKENS, {})
    return _wordpiece_between(checkpoint, settings, special, "{sep}:0")


def _mpnet(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Tokenizer:
    """Build MPNetTokenizerFast's tokenizer from vocab.txt (transformers, `MPNetConverter`)."""
    names = {**_ROBERTA_TOKENS, "unk": "[UNK]"}
    special = special_tokens(checkpoint, settings, names, STRIP_MASK)
    return _wordpiece_between(checkpoint, settings, special, "{sep}:0 {sep}:0")


def _wordpiece_between(
    checkpoint: Checkpoint, settings: Mapping[str, Any], special: Mapping[str, AddedToken], gap: str
) -> Tokenizer:
    """Build a tokenizer of BERT's pieces; `gap` is what stands between the texts of a pair."""
    if settings.get("do_basic_tokenize") is False:
        raise UnsupportedError("do_basic_tokenize false is not built here; add tokenizer.json")
    lines = _text(checkpoint, "vocab.txt").split("\n")
    pieces = lines if lines[-1] else lines[:-1]
    vocabulary = {token: index for index, token in enumerate(pieces)}
    if special["unk"].content not in vocabulary:
        raise StageError(f"vocab.txt lacks the token for unknown words, {special['unk'].content!r}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk"].content))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    add_tokens(tokenizer, checkpoint, settings, special)
    cls, sep = special["cls"].content, special["sep"].content
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {gap.format(sep=sep)} $B:1 {sep}:1",
        special_tokens=[(token, token_id(tokenizer, token)) for token in (cls, sep)],
    )
    return tokenizer


def _apply_bert(
    stored: dict[str, Any], settings: Mapping[str, Any], *, chinese: bool = True
) -> None:
    """Let tokenizer_config.json rule over tokenizer.json, as BertTokenizerFast does."""
    normalizer = stored.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return
    normalizer["lowercase"] = settings.get("do_lower_case", True)
    normalizer["strip_accents"] = settings.get("strip_accents")
    if chinese:
        normalizer["handle_chinese_chars"] = settings.get("tokenize_chinese_chars", True)


def _apply_roberta(stored: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Let tokenizer_config.json rule over tokenizer.json, as RobertaTokenizerFast does."""
    prefix = settings.get("add_prefix_space", False)
    for part in (stored.get("pre_tokenizer"), stored.get("post_processor")):
        if isinstance(part, dict) and "add_prefix_space" in part:
            part["add_prefix_space"] = prefix


def _apply_none(stored: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Leave tokenizer.json as it is: these classes of transformers do."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """A tokenizer class of transformers: how it is built, and what its settings override."""

    files: tuple[str, ...]
    build: Callable[[Checkpoint, Mapping[str, Any]], Tokenizer]
    apply: Callable[[dict[str, Any], Mapping[str, Any]], None]
    rebuilt: Callable[[Mapping[str, Any]], bool] = lambda _: False  # in place of tokenizer.json

    def is_there(self, checkpoint: Checkpoint) -> bool:
        """Say whether a checkpoint has all that the tokenizer is built of."""
        return all((checkpoint.path / name).is_file() for name in self.files)


_WORDPIECE = _Kind(("vocab.txt",), _wordpiece, _apply_bert)
# MPNetTokenizerFast leaves what tokenizer.json says of Chinese characters.
_MPNET = _Kind(("vocab.txt",), _mpnet, partial(_apply_bert, chinese=False))
_SENTENCEPIECE = {
    "AlbertTokenizer": sentencepiece.ALBERT,
    "MBart50Tokenizer": pairs.MBART50,
    "MBartTokenizer": pairs.MBART,
    "NllbTokenizer": pairs.NLLB,
    "PegasusTokenizer": pairs.PEGASUS,
    "CamembertTokenizer": sentencepiece.CAMEMBERT,
    "DebertaV2Tokenizer": sentencepiece.DEBERTA_V2,
    "XLMRobertaTokenizer": sentencepiece.XLM_ROBERTA,
}
_KINDS = {
    **{n: _Kind((rules.file,), rules.build, _apply_none) for n, rules in _SENTENCEPIECE.items()},
    "BartTokenizer": _Kind(byte_level.FILES, byte_level.build_roberta, _apply_roberta),
    "BertTokenizer": _WORDPIECE,
    "DistilBertTokenizer": _WORDPIECE,
    "ElectraTokenizer": _WORDPIECE,
    "GPT2Tokenizer": _Kind(byte_level.FILES, byte_level.build_gpt2, _apply_none),
    "GemmaTokenizer": _Kind((llama.FILE,), llama.build_gemma, _apply_none),
    "LlamaTokenizer": _Kind((llama.FILE,), llama.build_llama, _apply_none, llama.is_rebuilt),
    "MPNetTokenizer": _MPNET,
    "Qwen2Tokenizer": _Kind(byte_level.FILES, byte_level.build_qwen2, _apply_none),
    "RobertaTokenizer": _Kind(byte_level.FILES, byte_level.build_roberta, _apply_roberta),
    "T5Tokenizer": _Kind((pairs.T5.file,), pairs.T5.build, _apply_none, pairs.is_rebuilt),
}
_BY_ARCHITECTURE = {
    "albert": "AlbertTokenizer",
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "bigbird_pegasus": "PegasusTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "granite": "GPT2Tokenizer",
    "llama": "LlamaTokenizer",
    "longt5": "T5Tokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mistral": "LlamaTokenizer",
    "mpnet": "MPNetTokenizer",
    "mt5": "T5Tokenizer",
    "pegasus": "PegasusTokenizer",
    "phi3": "LlamaTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "roformer": "RoFormerTokenizer",
    "umt5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}


def tokenizer_class(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> str:
    """Return the name of the tokenizer's class in transformers without "Fast", "" if unknown."""
    name = (
        settings.get("tokenizer_class")
        or checkpoint.config.get("tokenizer_class")
        or _BY_ARCHITECTURE.get(checkpoint.architecture, "")
    )
    return _SAME_CLASS.get(plain := str(name).removesuffix("Fast"), plain)


_SAME_CLASS = {"MT5Tokenizer": "T5Tokenizer"}


def _kind(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> _Kind | None:
    """Return the tokenizer class that transformers' AutoTokenizer takes, if we know it."""
    return _KINDS.get(tokenizer_class(checkpoint, settings))


def _text(checkpoint: Checkpoint, name: str) -> str:
    try:
        return (checkpoint.path / name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"{checkpoint.path / name} is not UTF-8 text; fetch it again") from error
