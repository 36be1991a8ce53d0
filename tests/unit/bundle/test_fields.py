"""Frozen dataclasses ↔ JSON: nothing is lost, nothing unknown is taken."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.bundle.fields import decode, encode


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    name: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Outer:
    count: int
    ratio: float
    on: bool
    colour: Colour
    inner: Inner
    many: Mapping[str, Inner]
    several: tuple[Inner, ...] = ()
    maybe: str | None = None
    some: Inner | None = None


integers = st.integers(-(2**63), 2**63 - 1)
inners = st.builds(
    Inner,
    name=st.text(),
    shape=st.lists(integers | st.text()).map(tuple),
)
outers = st.builds(
    Outer,
    count=integers,
    ratio=st.floats(allow_nan=False),
    on=st.booleans(),
    colour=st.sampled_from(Colour),
    inner=inners,
    many=st.dictionaries(st.text(), inners, max_size=3),
    several=st.lists(inners, max_size=3).map(tuple),
    maybe=st.none() | st.text(),
    some=st.none() | inners,
)
PLAIN = encode(Outer(1, 0.5, True, Colour.RED, Inner("a", (1, "n")), {"k": Inner("b", ())}))


@given(outers)
def test_what_was_encoded_and_spelled_as_json_decodes_to_the_same(value):
    assert decode(Outer, json.loads(json.dumps(encode(value))), "x") == value


def test_fields_that_are_none_are_left_out():
    assert "maybe" not in PLAIN
    assert PLAIN["several"] == []


@pytest.mark.parametrize("field", ["count", "ratio", "on", "colour", "inner", "many"])
def test_a_missing_field_is_named(field):
    with pytest.raises(ValueError, match=f"x lacks the field '{field}'"):
        decode(Outer, {k: v for k, v in PLAIN.items() if k != field}, "x")


def test_an_unknown_field_is_named_where_it_is():
    with pytest.raises(ValueError, match=r"x\.inner has the unknown field 'extra'"):
        decode(Outer, PLAIN | {"inner": PLAIN["inner"] | {"extra": 1}}, "x")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("count", "1", "x.count is str, must be int"),
        ("count", True, "x.count is bool, must be int"),
        ("count", 1.0, "x.count is float, must be int"),
        ("count", None, "x.count is null, must be int"),
        ("count", 2**63, "x.count is a number of more than 64 bits"),
        ("ratio", True, "x.ratio is bool, must be float"),
        ("ratio", "1", "x.ratio is str, must be float"),
        ("on", 1, "x.on is int, must be bool"),
        ("colour", "green", "x.colour is 'green', must be one of red, blue"),
        ("colour", ["red"], "x.colour is ['red'], must be one of red, blue"),
        ("inner", [], "x.inner is list, must be dict"),
        ("many", [], "x.many is list, must be dict"),
        ("many", {"k": 1}, "x.many['k'] is int, must be dict"),
        ("several", {}, "x.several is dict, must be list"),
        ("maybe", 1, "x.maybe is int, must be str"),
        ("some", "a", "x.some is str, must be dict"),
        ("inner", {"name": "a", "shape": [None]}, "x.inner.shape[0] is null, must be int or str"),
        ("inner", {"name": "a", "shape": [True]}, "x.inner.shape[0] is bool, must be int or str"),
    ],
)
def test_a_field_of_another_type_is_named(field, value, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        decode(Outer, PLAIN | {field: value}, "x")


def test_a_whole_number_may_stand_for_a_float():
    assert decode(Outer, PLAIN | {"ratio": 2}, "x").ratio == 2


@given(st.text())
def test_a_key_from_outside_stays_within_one_short_line(key):
    with pytest.raises(ValueError, match="must be dict") as caught:
        decode(Outer, PLAIN | {"many": {key: 1}}, "x")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 120
