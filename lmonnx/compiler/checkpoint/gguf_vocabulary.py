"""The keys `tokenizer.ggml.*` → the vocabulary, the kinds of its tokens and the special ids."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from lmonnx.compiler.checkpoint.gguf_fields import MOST, Fields
from lmonnx.errors import StageError, UnsupportedError

# Tokens that end an answer besides eos; llama.cpp knows them by their text as well.
END_TEXTS = frozenset(
    """
    <|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <end_of_turn> <|endoftext|> <|eom_id|>
    <|end_of_text|> <end_of_utterance> <EOT> <｜end▁of▁sentence｜>
    """.split()
)
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_INERT = frozenset(
    f"ggml.{name}_token_id"
    for name in (
        *("eot", "eom", "seperator", "mask", "cls", "prefix", "suffix", "middle", "fsep"),
        *(f"fim_{part}" for part in ("pre", "suf", "mid", "pad", "rep", "sep")),
    )
) | {
    # What only the other kind of tokenizer reads.
    *("ggml.merges", "ggml.scores", "ggml.pre", "ggml.add_space_prefix"),
    *("ggml.token_type_count", "huggingface.json"),
}


class TokenType(IntEnum):
    """What a token is, by llama.cpp's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a file, by id.

    Attributes:
        fields: The keys of the tokenizer, for what one kind alone has.
        model: "llama" (SentencePiece's BPE) or "gpt2" (byte-level BPE).
        tokens: Their texts.
        types: What each is.
        roles: The ids of bos, eos, unk and pad, where they are stated.
        ends: The ids that end an answer, eos first.
    """

    fields: Fields
    model: str
    tokens: list[str]
    types: list[TokenType]
    roles: dict[str, int]
    ends: tuple[int, ...]

    def used(self) -> dict[str, int]:
        """Return the ids by text, without what fills the table up to the model's rows.

        Raises:
            StageError: Two have the same text.
        """
        ids: dict[str, int] = {}
        for index, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True)):
            if kind is TokenType.UNUSED or not token:
                continue
            if token in ids:
                raise StageError(
                    f"{self.fields.path}: tokens {ids[token]} and {index} are both {token!r:.60};"
                    " the file is damaged"
                )
            ids[token] = index
        return ids

    def is_special(self, index: int) -> bool:
        """Return whether a token is left out of decoded text."""
        kinds = (TokenType.CONTROL, TokenType.UNKNOWN)
        return self.types[index] in kinds or index in self.ends or index in self.roles.values()


def read_vocabulary(fields: Fields) -> Vocabulary:
    """Return what the keys of the tokenizer say, but for its merges, scores and templates.

    Raises:
        UnsupportedError: The tokenizer is of another kind.
        StageError: A key is missing or says nonsense.
    """
    model = fields.text("ggml.model")
    if model not in ("llama", "gpt2"):
        raise UnsupportedError(
            f"{fields.path}: the tokenizer {model!r:.40} is not read from GGUF, only llama"
            " (SentencePiece) and gpt2 (byte-level BPE); export the original checkpoint instead"
        )
    fields.only("ggml.add_sep_token", value=False)
    fields.only("ggml.remove_extra_whitespaces", value=False)
    tokens = fields.strings("ggml.tokens")
    types = _types(fields, len(tokens))
    roles = {}
    for role, name in _ROLES.items():
        # Converters write pad ids beyond the vocabulary, and nothing is generated with one.
        most = MOST if role == "pad" else len(tokens) - 1
        if (index := _token_id(fields, name, most)) is not None and index < len(tokens):
            roles[role] = index
    if model == "llama":
        for role, index in (("bos", 1), ("eos", 2), ("unk", 0)):  # llama.cpp's defaults
            roles.setdefault(role, index)
    if "eos" not in roles or max(roles.values()) >= len(tokens):
        raise StageError(f"{fields.path} names no eos token; convert the model again")
    ends = [roles["eos"]]
    ends += [
        i for name in ("eot", "eom") if (i := _token_id(fields, name, len(tokens) - 1)) is not None
    ]
    marked = (TokenType.CONTROL, TokenType.USER_DEFINED)
    ends += [
        index for index, token in enumerate(tokens) if token in END_TEXTS and types[index] in marked
    ]
    return Vocabulary(fields, model, tokens, types, roles, tuple(dict.fromkeys(ends)))


def finish(fields: Fields) -> None:
    """Refuse keys of the tokenizer that nobody asked for (`Fields.finish`)."""
    fields.finish(_INERT)


def _token_id(fields: Fields, name: str, most: int) -> int | None:
    """Return the id a key states, None where there is none; StageError if it is above `most`."""
    key = f"ggml.{name}_token_id"
    return fields.integer(key, least=0, most=most) if fields.has(key) else None


def _types(fields: Fields, count: int) -> list[TokenType]:
    stated: list[Any] = fields.numbers("ggml.token_type")
    known = {int(kind): kind for kind in TokenType}
    if len(stated) != count or not set(stated) <= known.keys():
        raise StageError(
            f"{fields.path}: tokenizer.ggml.token_type does not say of each of the {count} tokens"
            " what it is; the file is damaged"
        )
    return [known[number] for number in stated]
