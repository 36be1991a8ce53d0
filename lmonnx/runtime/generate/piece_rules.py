"""What a slow tokenizer does that tokenizer.json cannot say: a bundle's `id_map` file.

docs/decisions/0014-pair-tokenizers.md says which tokenizers have it, and why.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lmonnx.errors import BundleError

# Before a piece that the model knows and SentencePiece never gives: spaces are ▁ by then, so
# nothing in a text is this. The decoder takes it off again.
HIDDEN = " "


@dataclass(frozen=True, slots=True)
class PieceRules:
    """How a text's parts become ids.

    Attributes:
        unknown_id: The model's id of what it does not know.
        size: The tokenizer's ids from here on are pieces that the model does not know.
        tokens: The tokens that stand for themselves in a text, with their ids.
        strips: Of those that take the space beside them: on the left "l", the right "r", or "lr".
        charsmap: SentencePiece's compiled normalization.
        dummy_prefix: A space goes before a text.
        squeeze: Runs of spaces are one, and those at the ends go.
        byte_fallback: What no piece covers is spelled in bytes.
        codes: `>>…<<` at the beginning of a text is one token.
        first_byte: The id of the byte 0 where ids are bytes; the rest is then as good as not there.
        end_once: A text that ends in the end token gets no second.
    """

    unknown_id: int
    size: int
    tokens: Mapping[str, int] = field(default_factory=dict)
    strips: Mapping[str, str] = field(default_factory=dict)
    charsmap: bytes = b""
    dummy_prefix: bool = True
    squeeze: bool = True
    byte_fallback: bool = False
    codes: bool = False
    first_byte: int | None = None
    end_once: bool = False

    def to_json(self) -> str:
        """Return the file's text."""
        stored = {part.name: getattr(self, part.name) for part in fields(self)}
        stored["charsmap"] = base64.b64encode(self.charsmap).decode()
        return json.dumps(stored, ensure_ascii=False, sort_keys=True) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> PieceRules:
        """Read the file.

        Raises:
            BundleError: It is not what export writes.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            stored["charsmap"] = base64.b64decode(stored["charsmap"], validate=True)
            rules = cls(**stored)
            _check(rules)
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            raise BundleError(
                f"{path} is no file of a tokenizer's rules ({error!s:.80}); export again"
            ) from error
        return rules


def _check(rules: PieceRules) -> None:
    """Refuse values of other types: the file is from outside."""
    kinds: tuple[tuple[Any, type], ...] = (
        *((value, int) for value in (rules.unknown_id, rules.size, *rules.tokens.values())),
        *((value, str) for value in rules.strips.values()),
        *((getattr(rules, name), bool) for name in _SWITCHES),
        (rules.first_byte or 0, int),
    )
    for value, kind in kinds:
        if type(value) is not kind:
            raise ValueError(f"{value!r:.40} is no {kind.__name__}")
    if "" in rules.tokens:
        raise ValueError("a token is empty")


_SWITCHES = ("dummy_prefix", "squeeze", "byte_fallback", "codes", "end_once")
