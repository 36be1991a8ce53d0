"""Answers of a given form: JSON schema, regex or Lark grammar; the door to llguidance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.numerics import Floats

LONGEST_FORM = 2**16  # characters of a schema, regex or grammar
# JSON allows any amount of white space, in which a small model can lose itself.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,24}"


class Constraint:
    """Where one completion stands in its grammar.

    A step asks `mask`, picks a token, gives it to `accept`, and ends where it `is_finished`.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def is_finished(self) -> bool:
        """Whether the text is whole and only a stop id may follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: Floats) -> Floats:
        """Return a copy of a row (V,) with -inf for every token that cannot come next.

        Raises:
            InputError: The form is too complex to go on with.
        """
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        _check(self._matcher)
        allowed = np.unpackbits(packed, count=len(logits), bitorder="little").view(np.bool_)
        result: Floats = np.where(allowed, logits, np.float32(-np.inf))
        return result

    def accept(self, token: int) -> None:
        """Take the token that was picked.

        Raises:
            InputError: The form does not allow it, or is too complex to go on with.
        """
        self._matcher.consume_token(token)
        _check(self._matcher)


class Grammars:
    """Makes the constraints of one bundle; its vocabulary is read at the first one, in 0.4 s."""

    def __init__(self, tokenizer: Path, *, stop_ids: Sequence[int]) -> None:
        """Take the bundle's tokenizer.json and the ids that may end a text."""
        self._path, self._stop_ids = tokenizer, list(stop_ids)

    def constraint(self, params: SamplingParams) -> Constraint | None:
        """Return the constraint that `schema`, `regex` or `grammar` asks for, None for none.

        Raises:
            InputError: The form is invalid, too long or too complex.
            UnsupportedError: llguidance is absent.
            BundleError: llguidance cannot read the tokenizer.
        """
        if not params.is_structured:
            return None
        library = self._library
        grammar = _grammar(library.LLMatcher, params)
        limits = library.LLParserLimits(verbose_errors=False)
        matcher = library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        _check(matcher)
        matcher.compute_bitmask()  # a form that no text has is found only here
        _check(matcher)
        return Constraint(matcher)

    @cached_property
    def _library(self) -> Any:
        try:
            import llguidance
        except ImportError as error:
            raise UnsupportedError(
                "schema, regex and grammar need llguidance; pip install 'lmonnx[structured]'"
            ) from error
        return llguidance

    @cached_property
    def _tokenizer(self) -> Any:
        try:
            stored = json.loads(self._path.read_text("utf-8"))
            stored |= {"padding": None, "truncation": None}  # they would change its own texts
            text = json.dumps(stored)
            return self._library.LLTokenizer(text, eos_token=self._stop_ids or None)
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(
                f"{self._path} is no tokenizer that llguidance reads ({error}); "
                "leave out schema, regex and grammar"
            ) from error


def _grammar(matcher: Any, params: SamplingParams) -> str:
    """Return the form that is asked for, as llguidance writes it."""
    if params.regex is not None:
        return str(matcher.grammar_from_regex(_short("regex", params.regex)))
    if params.grammar is not None:
        return str(matcher.grammar_from_lark(_short("grammar", params.grammar)))
    try:
        schema = params.schema if isinstance(params.schema, str) else json.dumps(params.schema)
        json.loads(schema)
        return str(
            matcher.grammar_from_json_schema(
                _short("schema", schema), defaults={"whitespace_pattern": _WHITESPACE}
            )
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"schema cannot be read ({error!s:.100}); give a JSON object") from error


def _short(name: str, text: str) -> str:
    if len(text) > LONGEST_FORM:
        raise InputError(f"{name} has {len(text)} characters; give at most {LONGEST_FORM}")
    return text


def _check(matcher: Any) -> None:
    """Refuse what llguidance found wrong: it would go on as if the text were whole."""
    if matcher.is_error():
        raise InputError(
            f"the schema, regex or grammar is at fault: {matcher.get_error():.300}; mend it"
        )
