"""Constrained text has its form, and a hostile form is refused in bounded time."""

import builtins
import json
import re
from contextlib import suppress
from time import perf_counter

import numpy as np
import pytest

from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.structured import LONGEST_FORM, Grammars
from tests import tiny_decoding

MAKERS = [tiny_decoding.byte_level, tiny_decoding.byte_fallback]
SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "the dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def made(request, tmp_path):
    """Give a tokenizer, its stop id and the grammars of its file."""
    pytest.importorskip("llguidance")
    tokenizer = request.param()
    tokenizer.enable_padding()
    tokenizer.enable_truncation(5)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    stop = next(iter(tokenizer.get_added_tokens_decoder()))
    return tokenizer, stop, Grammars(tmp_path / "tokenizer.json", stop_ids=[stop])


def written(made, seed=0, limit=400, **form):
    """Let a random model write in a form; return the text."""
    tokenizer, stop, grammars = made
    constraint = grammars.constraint(SamplingParams(**form))
    rng = np.random.default_rng(seed)
    ids: list[int] = []
    # Wider than the tokenizer, as padded heads are.
    width = tokenizer.get_vocab_size() + 9
    while not constraint.is_finished and len(ids) < limit:
        row = rng.standard_normal(width).astype(np.float32)
        masked = constraint.mask(row)
        kept = masked > -np.inf
        assert kept.any() and (masked[kept] == row[kept]).all() and not kept[-9:].any()
        token = int(masked.argmax())
        if kept[stop]:
            break
        constraint.accept(token)
        ids.append(token)
    prefix = tokenizer.encode("a").ids
    return tokenizer.decode([*prefix, *ids])[1:]


@pytest.mark.parametrize("seed", range(5))
def test_a_schema_gives_json_of_its_form(made, seed):
    value = json.loads(written(made, seed, schema=SCHEMA))
    assert set(value) == {"age", "kind", "tags"} and 0 <= value["age"] <= 120
    assert value["kind"] in SCHEMA["properties"]["kind"]["enum"] and len(value["tags"]) <= 2


@pytest.mark.parametrize("seed", range(5))
def test_a_regex_gives_text_that_it_matches(made, seed):
    pattern = r"[a-f]{2,5}-(yes|no|vielleicht), [0-9]+é"
    assert re.fullmatch(pattern, written(made, seed, regex=pattern))


def test_a_grammar_gives_text_that_it_derives(made):
    text = written(made, grammar='start: "(" start ")" | NUMBER\nNUMBER: /[0-9]{2}/')
    assert re.fullmatch(r"\(*\d\d\)*", text) and text.count("(") == text.count(")")


def test_json_text_and_mapping_are_the_same_schema(made):
    assert written(made, 3, schema=json.dumps(SCHEMA)) == written(made, 3, schema=SCHEMA)


def test_without_a_form_there_is_no_constraint_and_nothing_is_read(tmp_path):
    grammars = Grammars(tmp_path / "absent.json", stop_ids=[0])
    assert grammars.constraint(SamplingParams()) is None


def test_a_whole_text_lets_only_a_stop_id_follow(made):
    tokenizer, stop, grammars = made
    constraint = grammars.constraint(SamplingParams(regex="a"))
    assert not constraint.is_finished
    constraint.accept(tokenizer.token_to_id("a"))
    assert constraint.is_finished
    row = np.zeros(tokenizer.get_vocab_size(), np.float32)
    assert np.flatnonzero(constraint.mask(row) > -np.inf).tolist() == [stop]


def test_a_token_that_may_not_come_is_an_input_error(made):
    tokenizer, _, grammars = made
    constraint = grammars.constraint(SamplingParams(regex="a"))
    with pytest.raises(InputError, match="regex"):
        constraint.accept(tokenizer.token_to_id("b"))
    with pytest.raises(InputError):
        constraint.mask(np.zeros(tokenizer.get_vocab_size(), np.float32))


HOSTILE = {
    "no JSON": {"schema": '{"type":'},
    "no object": {"schema": "true"},
    "no JSON value": {"schema": {"a": {1, 2}}},
    "no such type": {"schema": {"type": "objct"}},
    "not supported": {"schema": {"type": "object", "if": {"properties": {}}}},
    "from the network": {"schema": {"$ref": "http://example.com/schema"}},
    "of nothing but itself": {"schema": {"$ref": "#"}},
    "too deep": {"schema": '{"items":' * 5000 + "{}" + "}" * 5000},
    "deep enough for JSON": {"schema": '{"items":' * 500 + "{}" + "}" * 500},
    "open group": {"regex": "(a"},
    "look-ahead": {"regex": "(?=a)b"},
    "deep group": {"regex": "(" * 5000 + "a" + ")" * 5000},
    "unknown name": {"grammar": "start: b"},
    "deep grammar": {"grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
    "no start": {"grammar": 'first: "a"'},
    "too long": {"regex": "a" * (LONGEST_FORM + 1)},
    "too long a schema": {"schema": {"enum": ["x" * LONGEST_FORM]}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_invalid_form_is_an_input_error_of_one_line(made, name):
    start = perf_counter()
    with pytest.raises(InputError) as caught:
        made[2].constraint(SamplingParams(**HOSTILE[name]))
    assert perf_counter() - start < 5 and len(str(caught.value)) < 500


COSTLY = {
    "many repeats": {"regex": "(a{1,1000}){1,1000}"},
    "backtracking": {"regex": "((a+a+)+b)" * 20},
    "many states": {"regex": "(.*a.{30}){3}"},
    "many properties": {
        "schema": {"properties": {f"k{i}": {"type": "string"} for i in range(900)}}
    },
    "many choices": {"schema": {"anyOf": [{"const": f"k{i}"} for i in range(2000)]}},
    "many patterns": {
        "schema": {"properties": {f"k{i}": {"pattern": f"(a|b){{9}}c{i}"} for i in range(300)}}
    },
    "many items": {"schema": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}}},
    "ambiguous": {"grammar": 'start: start start | "a" | "aa" | start "a" start'},
}


@pytest.mark.parametrize("name", COSTLY)
def test_a_costly_form_is_refused_or_goes_on_in_bounded_time(made, name):
    start = perf_counter()
    with suppress(InputError):
        written(made, limit=30, **COSTLY[name])
    assert perf_counter() - start < 15


def test_without_llguidance_the_error_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "llguidance":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match=r"pip install 'lmonnx\[structured\]'"):
        Grammars(tmp_path, stop_ids=[]).constraint(SamplingParams(regex="a"))


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_broken_tokenizer_is_a_bundle_error(tmp_path, text):
    pytest.importorskip("llguidance")
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Grammars(tmp_path / "tokenizer.json", stop_ids=[0]).constraint(SamplingParams(regex="a"))
