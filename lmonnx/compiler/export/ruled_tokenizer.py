"""A tokenizer.json and the rules beside it, which the runtime follows: of one side, or of both."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from lmonnx.compiler.export.added_tokens import token_id
from lmonnx.runtime.generate.piece_rules import PieceRules


@dataclass(frozen=True, slots=True)
class Ruled:
    """A tokenizer, whose ids are the model's, and the rules that the runtime follows beside it."""

    tokenizer: Tokenizer
    rules: PieceRules


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokenizers of both sides; `target` is None where the source's serves."""

    source: Ruled
    target: Ruled | None = None


def end_after(tokenizer: Tokenizer, end: str) -> None:
    """Put the end token after every text."""
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", pair=f"$A $B {end}", special_tokens=[(end, token_id(tokenizer, end))]
    )


def found_tokens(tokenizer: Tokenizer) -> tuple[dict[str, int], dict[str, str]]:
    """Return the tokens that stand for themselves in a text, and the space that they take."""
    added = tokenizer.get_added_tokens_decoder()
    tokens = {token.content: int(index) for index, token in added.items() if token.content}
    strips = {t.content: "l" * t.lstrip + "r" * t.rstrip for t in added.values()}
    return tokens, {token: sides for token, sides in strips.items() if sides}
