"""A checkpoint's tokenizer files → tokenizer.json in the bundle, and how the runtime uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Side, TextSpec, TokenizerSpec
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.added_tokens import token_id
from lmonnx.compiler.export.framing import Frame, read_frame
from lmonnx.compiler.export.pair_tokenizer import read_pair
from lmonnx.compiler.export.ruled_tokenizer import Pair
from lmonnx.compiler.export.sentence_transformers import max_seq_length
from lmonnx.compiler.export.vocabulary import TOKENIZER, read_tokenizer
from lmonnx.compiler.token_types import missing_type
from lmonnx.errors import BundleError, StageError, UnsupportedError
from lmonnx.runtime.tokenizer import Tokenizer as RuntimeTokenizer

# Other clients of the bundle (sentence-transformers, optimum, fastembed) want these beside it.
SETTINGS = "tokenizer_config.json"
COMPANIONS = ("config.json", SETTINGS, "special_tokens_map.json")
RULES, TARGET, TARGET_RULES = "pieces.json", "target_tokenizer.json", "target_pieces.json"
_UNLIMITED = 10**9


def export_text(
    checkpoint: Checkpoint,
    draft: Draft,
    *,
    positions: int,
    spare_tokens: bool = False,
    typed_pairs: bool = False,
) -> TextSpec:
    """Write the tokenizer's files into the draft and say how the runtime uses them.

    Args:
        checkpoint: Where the files are.
        draft: Where they go.
        positions: How many tokens the model takes at most.
        spare_tokens: Added tokens may have no embedding, since prompts with them are refused.
        typed_pairs: The graph takes token types, and reads pairs of texts and nothing else.

    Raises:
        UnsupportedError: There is neither tokenizer.json nor a vocabulary we can build one from.
        StageError: A file is damaged, or its ids or its token types do not fit the model.
    """
    settings = checkpoint.json_file(SETTINGS) or {}
    if settings.get("split_special_tokens"):
        raise UnsupportedError(
            f"{SETTINGS} asks to read special tokens in a text as text (split_special_tokens), "
            "which is not built; state false, and they are read as tokens"
        )
    pair = read_pair(checkpoint, settings)
    if pair is not None:
        tokenizer = pair.source.tokenizer
    else:
        tokenizer = _framed(read_tokenizer(checkpoint, settings), read_frame(checkpoint, settings))
        _begin_words(tokenizer, prefix_space=bool(settings.get("add_prefix_space", False)))
    draft.file(TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    for name in COMPANIONS:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, draft.file(name))
    pad_type, one_type = settings.get("pad_token_type_id", 0), not _gives_types(settings)
    text = TextSpec(
        source=TokenizerSpec(
            file=TOKENIZER,
            pad_id=_pad_id(tokenizer, checkpoint, settings),
            padding_side=_side(settings, "padding_side"),
            truncation_side=_side(settings, "truncation_side"),
            pad_type_id=pad_type if type(pad_type) is int and not one_type else 0,
            one_type=one_type or None,
            mask_token=_special(checkpoint, settings, tokenizer, "mask_token"),
            unk_token=_special(checkpoint, settings, tokenizer, "unk_token"),
            clean_up_spaces=settings.get("clean_up_tokenization_spaces") is True or None,
        ),
        # sentence-transformers puts its own length in the place of the tokenizer's.
        max_length=min(max_seq_length(checkpoint) or _limit(settings), positions),
    )
    if pair is not None:
        text = _with_rules(draft, text, pair)
    # Those of a pair are checked where they are read: some of its pieces have no embedding.
    ids = [] if pair else list(tokenizer.get_vocab(with_added_tokens=not spare_tokens).values())
    framed = _runtime_tokenizer(draft, text)
    special = [index for each in framed.encode(["", ("", "")]) for index in each.ids]
    _check_ids(checkpoint, [*ids, *special])
    if typed_pairs:
        _check_types(checkpoint, framed, text)
    _complete_settings(draft, settings, text, tokenizer.id_to_token(text.source.pad_id))
    return text


def _with_rules(draft: Draft, text: TextSpec, pair: Pair) -> TextSpec:
    """Write the rules beside the tokenizers, and the target's tokenizer where it is another."""
    draft.file(RULES).write_text(pair.source.rules.to_json(), encoding="utf-8")
    source = replace(text.source, id_map=RULES)
    if pair.target is None:
        return replace(text, source=source)
    draft.file(TARGET).write_text(pair.target.tokenizer.to_str(), encoding="utf-8")
    draft.file(TARGET_RULES).write_text(pair.target.rules.to_json(), encoding="utf-8")
    return replace(text, source=source, target=replace(source, file=TARGET, id_map=TARGET_RULES))


def _gives_types(settings: Mapping[str, Any]) -> bool:
    """Say whether the model hears of types; where it does not, it takes 0 for all of them.

    Source:
        transformers, `PreTrainedTokenizerBase.model_input_names`, which decides what is returned.
    """
    names = settings.get("model_input_names")
    return not isinstance(names, list) or "token_type_ids" in names


def _framed(tokenizer: Tokenizer, frame: Frame | None) -> Tokenizer:
    """Put the frame's tokens around every text; None leaves what tokenizer.json has."""
    if frame is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=frame.single,
            pair=frame.pair,
            special_tokens=[(token, token_id(tokenizer, token)) for token in frame.tokens],
        )
    return tokenizer


def _begin_words(tokenizer: Tokenizer, *, prefix_space: bool) -> None:
    """Let add_prefix_space rule over tokenizer.json: a text's first word has a space before it.

    Source:
        transformers, `PreTrainedTokenizerFast.__init__`.
    """
    words = tokenizer.pre_tokenizer
    if isinstance(words, ByteLevel) and words.add_prefix_space is not prefix_space:
        words.add_prefix_space = prefix_space
        tokenizer.pre_tokenizer = words


def _complete_settings(
    draft: Draft, settings: Mapping[str, Any], text: TextSpec, pad: str | None
) -> None:
    """State in tokenizer_config.json what other clients cut and pad by, where it does not."""
    stated = dict(settings)
    if pad is not None:
        stated.setdefault("pad_token", pad)
    if _limit(settings) > text.max_length:
        stated["model_max_length"] = text.max_length
    if stated != settings:
        written = json.dumps(stated, indent=2, ensure_ascii=False) + "\n"
        draft.file(SETTINGS).write_text(written, encoding="utf-8")


def _pad_id(tokenizer: Tokenizer, checkpoint: Checkpoint, settings: Mapping[str, Any]) -> int:
    """Return the id that fills short rows; it is masked, but RoBERTa's positions depend on it."""
    token = settings.get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    index = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if index is None:
        index = checkpoint.config.get("pad_token_id")
    return index if type(index) is int else 0


def _special(
    checkpoint: Checkpoint, settings: Mapping[str, Any], tokenizer: Tokenizer, name: str
) -> str | None:
    """Return the special token that the tokenizer's files call `name`, if its vocabulary has it."""
    stored = checkpoint.json_file("special_tokens_map.json") or {}
    usual = {"mask_token": ("[MASK]", "<mask>"), "unk_token": ("[UNK]", "<unk>")}[name]
    # MPNet's vocabulary has [MASK] as a piece like any other, and its mask is <mask>.
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    guessed = sorted(usual, key=lambda token: token not in added)
    for token in (stored.get(name), settings.get(name), *guessed):
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and tokenizer.token_to_id(text) is not None:
            return text
    return None


def _limit(settings: Mapping[str, Any]) -> int:
    """Return model_max_length where it is one; transformers writes 1e30 for no limit.

    Once it was called max_len, which transformers reads where the other is not stated.
    """
    limit = settings.get("model_max_length", settings.get("max_len"))
    stated = isinstance(limit, int | float) and not isinstance(limit, bool) and limit >= 1
    return int(limit) if stated and limit is not None and limit < _UNLIMITED else _UNLIMITED


def _side(settings: Mapping[str, Any], name: str) -> Side:
    return Side.LEFT if settings.get(name) == "left" else Side.RIGHT


def _runtime_tokenizer(draft: Draft, text: TextSpec) -> RuntimeTokenizer:
    try:
        return RuntimeTokenizer(draft.file(TOKENIZER), text)
    except BundleError as error:
        raise StageError(str(error).replace(f"{draft.path}/", "")) from error


def _check_types(checkpoint: Checkpoint, tokenizer: RuntimeTokenizer, text: TextSpec) -> None:
    """Refuse a model that fails on every pair, in transformers with an IndexError."""
    if (missing := missing_type(checkpoint, tokenizer, text)) is None:
        return
    raise StageError(
        f"the tokenizer gives a pair's second text the token type {missing}, but the model has "
        f"types below {checkpoint.config['type_vocab_size']} (type_vocab_size in config.json); if "
        'it was trained without types, state "model_input_names": ["input_ids", "attention_mask"] '
        f"in {SETTINGS}, else fetch tokenizer and weights of one model"
    )


def _check_ids(checkpoint: Checkpoint, ids: list[int]) -> None:
    highest = max(ids, default=-1)
    rows = checkpoint.config.get("vocab_size")
    if type(rows) is int and highest >= rows:
        raise StageError(
            f"the tokenizer gives ids up to {highest}, the model has {rows} embeddings; "
            "tokenizer and weights are not of one model"
        )
