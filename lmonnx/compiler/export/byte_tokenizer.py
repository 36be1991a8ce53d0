"""ByT5's tokenizer, whose ids are bytes: no file says it, so it is made of the settings alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.added_tokens import add_missing, add_tokens, special_tokens, token_id
from lmonnx.compiler.export.ruled_tokenizer import Pair, Ruled, end_after, found_tokens
from lmonnx.runtime.generate.piece_rules import PieceRules

Settings = Mapping[str, Any]
_TOKENS = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_STRIP = {"lstrip": True, "rstrip": True}


def build_byt5(checkpoint: Checkpoint, settings: Settings) -> Pair:
    """Build ByT5Tokenizer: a byte's id is the byte + 3."""
    letters = _byte_letters()
    names = special_tokens(checkpoint, settings, _TOKENS, dict.fromkeys(_TOKENS, _STRIP))
    first = len(names)
    vocabulary = {names[role].content: i for i, role in enumerate(("pad", "eos", "unk"))}
    vocabulary |= {letter: first + byte for byte, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token=names["unk"].content))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    add_tokens(tokenizer, checkpoint, settings, names)
    if not settings.get("additional_special_tokens"):
        extra = settings.get("extra_ids", 125)
        if type(extra) is not int or not 0 <= extra <= 10_000:
            raise ValueError(f"extra_ids is {extra!r:.40}")
        tokenizer.add_special_tokens([f"<extra_id_{index}>" for index in range(extra)])
    add_missing(tokenizer, checkpoint, settings)
    end = names["eos"].content
    end_after(tokenizer, end)
    unknown = token_id(tokenizer, names["unk"].content)
    size = tokenizer.get_vocab_size()
    tokens, strips = found_tokens(tokenizer)
    return Pair(
        Ruled(tokenizer, PieceRules(unknown, size, tokens, strips, first_byte=first, end_once=True))
    )


def _byte_letters() -> list[str]:
    """Return the letter of every byte, as byte-level tokenizers write them.

    Source:
        openai/gpt-2, `bytes_to_unicode`.
    """
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    own += range(ord("®"), ord("ÿ") + 1)
    others = iter(range(256, 512))
    return [chr(byte if byte in own else next(others)) for byte in range(256)]
