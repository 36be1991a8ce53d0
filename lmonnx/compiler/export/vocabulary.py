"""tokenizer.json, or vocabulary files → the tokenizer that transformers would make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import RobertaProcessing, TemplateProcessing

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.errors import StageError, UnsupportedError

TOKENIZER = "tokenizer.json"
_ROLES = ("unk", "sep", "pad", "cls", "mask", "bos", "eos")


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
    _add_missing(tokenizer, checkpoint, settings)
    return tokenizer


def _read(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Tokenizer:
    kind = _kind(checkpoint, settings)
    stored = checkpoint.json_file(TOKENIZER)
    if stored is not None:
        if kind:
            kind.apply(stored, settings)
        try:
            return Tokenizer.from_str(json.dumps(stored))
        except Exception as error:  # the package raises plain Exception
            path = checkpoint.path / TOKENIZER
            raise StageError(f"{path} is not a tokenizer ({error}); fetch it again") from error
    if kind and all((checkpoint.path / name).is_file() for name in kind.files):
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
    """Build BertTokenizerFast's tokenizer from vocab.txt.

    Source:
        transformers, `BertConverter`.
    """
    if settings.get("do_basic_tokenize") is False:
        raise UnsupportedError("do_basic_tokenize false is not built here; add tokenizer.json")
    lines = _text(checkpoint, "vocab.txt").split("\n")
    pieces = lines if lines[-1] else lines[:-1]
    vocabulary = {token: index for index, token in enumerate(pieces)}
    special = _special_tokens(checkpoint, settings, "[{}]")
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
    _add_tokens(tokenizer, checkpoint, settings, special)
    cls, sep = special["cls"].content, special["sep"].content
    tokenizer.post_processor = TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(token, _id(tokenizer, token)) for token in (cls, sep)],
    )
    return tokenizer


def _byte_bpe(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Tokenizer:
    """Build RobertaTokenizerFast's tokenizer from vocab.json and merges.txt.

    Source:
        transformers, `RobertaConverter`.
    """
    vocabulary = checkpoint.json_file("vocab.json") or {}
    lines = _text(checkpoint, "merges.txt").split("\n")
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise StageError("merges.txt has a line that is not two tokens; fetch it again")
    merges = [(first, second) for first, second in pairs]
    prefix = settings.get("add_prefix_space", False)
    special = _special_tokens(checkpoint, settings, "<{}>", cls="<s>", sep="</s>")
    try:
        model = models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="")
    except Exception as error:  # the package raises plain Exception
        said = " ".join(str(error).split())
        raise StageError(f"vocab.json and merges.txt do not fit together ({said})") from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, checkpoint, settings, special)
    cls, sep = special["cls"].content, special["sep"].content
    # Both by position: tokenizers 0.23 renamed `cls`.
    tokenizer.post_processor = RobertaProcessing(
        (sep, _id(tokenizer, sep)),
        (cls, _id(tokenizer, cls)),
        add_prefix_space=prefix,
        trim_offsets=settings.get("trim_offsets", True),
    )
    return tokenizer


def _apply_bert(stored: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Let tokenizer_config.json rule over tokenizer.json, as BertTokenizerFast does."""
    normalizer = stored.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return
    normalizer["lowercase"] = settings.get("do_lower_case", True)
    normalizer["strip_accents"] = settings.get("strip_accents")
    normalizer["handle_chinese_chars"] = settings.get("tokenize_chinese_chars", True)


def _apply_roberta(stored: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Let tokenizer_config.json rule over tokenizer.json, as RobertaTokenizerFast does."""
    prefix = settings.get("add_prefix_space", False)
    for part in (stored.get("pre_tokenizer"), stored.get("post_processor")):
        if isinstance(part, dict) and "add_prefix_space" in part:
            part["add_prefix_space"] = prefix


@dataclass(frozen=True, slots=True)
class _Kind:
    """A tokenizer class of transformers: how it is built, and what its settings override."""

    files: tuple[str, ...]
    build: Callable[[Checkpoint, Mapping[str, Any]], Tokenizer]
    apply: Callable[[dict[str, Any], Mapping[str, Any]], None]


_WORDPIECE = _Kind(("vocab.txt",), _wordpiece, _apply_bert)
_BYTE_BPE = _Kind(("vocab.json", "merges.txt"), _byte_bpe, _apply_roberta)
_KINDS = {
    "BertTokenizer": _WORDPIECE,
    "DistilBertTokenizer": _WORDPIECE,
    "RobertaTokenizer": _BYTE_BPE,
}
_BY_ARCHITECTURE = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "roberta": "RobertaTokenizer",
}


def _kind(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> _Kind | None:
    """Return the tokenizer class that transformers' AutoTokenizer takes, if we know it."""
    name = (
        settings.get("tokenizer_class")
        or checkpoint.config.get("tokenizer_class")
        or _BY_ARCHITECTURE.get(checkpoint.architecture, "")
    )
    return _KINDS.get(str(name).removesuffix("Fast"))


def _special_tokens(
    checkpoint: Checkpoint, settings: Mapping[str, Any], form: str, **names: str
) -> dict[str, AddedToken]:
    """Return the special tokens by role: unk, sep, pad, cls, mask."""
    stored = {**(checkpoint.json_file("special_tokens_map.json") or {}), **settings}
    upper = form.startswith("[")
    found = {}
    for role in ("unk", "sep", "pad", "cls", "mask"):
        default = names.get(role, form.format(role.upper() if upper else role))
        value = stored.get(f"{role}_token") or default
        # RoBERTa's mask takes the space before it: "a <mask>" is one word and the mask.
        lstrip = role == "mask" and not upper
        found[role] = (
            _added(value, special=True)
            if isinstance(value, dict)
            else AddedToken(str(value), lstrip=lstrip, normalized=False, special=True)
        )
    return found


def _add_tokens(
    tokenizer: Tokenizer,
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    special: Mapping[str, AddedToken],
) -> None:
    """Add the tokens of tokenizer_config.json and added_tokens.json under their stated ids."""
    listed = settings.get("added_tokens_decoder") or {}
    by_id = {int(index): _added(token, special=False) for index, token in listed.items()}
    for content, index in (checkpoint.json_file("added_tokens.json") or {}).items():
        by_id.setdefault(index, AddedToken(content, normalized=True))
    for index in sorted(by_id):
        token = by_id[index]
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([token])
        if tokenizer.token_to_id(token.content) != index:
            raise StageError(f"the added token {token.content!r} cannot get its id {index}")
    known = {token.content for token in by_id.values()}
    tokenizer.add_special_tokens([t for t in special.values() if t.content not in known])


def _add_missing(tokenizer: Tokenizer, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    """Add the tokens that the settings list and tokenizer.json lacks.

    Source:
        transformers, `PreTrainedTokenizerFast.__init__`.
    """
    there = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in _listed(checkpoint, settings):
        if token.content and token.content not in there:
            there.add(token.content)
            add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
            add([token])


def _listed(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Iterator[AddedToken]:
    decoder = settings.get("added_tokens_decoder") or {}
    try:
        for index in sorted(decoder, key=int):
            yield _added(decoder[index], special=False)
        stored = {**(checkpoint.json_file("special_tokens_map.json") or {}), **settings}
        named = [stored.get(f"{role}_token") for role in _ROLES]
        for value in (*named, *(stored.get("additional_special_tokens") or ())):
            if isinstance(value, dict):
                yield _added(value, special=True)
            elif value:
                yield AddedToken(str(value), normalized=False, special=True)
    except (TypeError, ValueError, AttributeError) as error:
        raise StageError(f"tokenizer_config.json or special_tokens_map.json: {error}") from error


def _added(fields: Mapping[str, Any], *, special: bool) -> AddedToken:
    """Return the token that `fields` spell; as in AddedToken, plain ones are normalized."""
    special = bool(fields.get("special", special))
    flags = {name: bool(fields.get(name, False)) for name in ("lstrip", "rstrip", "single_word")}
    return AddedToken(
        str(fields.get("content", "")),
        normalized=bool(fields.get("normalized", not special)),
        special=special,
        **flags,
    )


def _id(tokenizer: Tokenizer, token: str) -> int:
    index = tokenizer.token_to_id(token)
    if index is None:
        raise StageError(f"the vocabulary lacks the special token {token!r}")
    return int(index)


def _text(checkpoint: Checkpoint, name: str) -> str:
    try:
        return (checkpoint.path / name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StageError(f"{checkpoint.path / name} is not UTF-8 text; fetch it again") from error
