"""lmonnx.json: the same manifest gives the same bytes, and only format 1 is read."""

import json

import pytest

from lmonnx.bundle.manifest import MANIFEST, Manifest, Step
from lmonnx.errors import BundleError


@pytest.fixture
def text(tiny_bundle) -> str:
    return (tiny_bundle / MANIFEST).read_text(encoding="utf-8")


def changed(text: str, **fields: object) -> str:
    return json.dumps(json.loads(text) | fields)


def test_a_manifest_that_is_read_and_written_has_the_same_bytes(text):
    assert Manifest.from_json(text, "here").to_json() == text


def test_a_step_is_added_to_a_copy(text):
    manifest = Manifest.from_json(text, "here")
    longer = manifest.with_step(Step("optimize", {"level": 2}, {}))
    assert [step.stage for step in longer.history] == ["export", "optimize"]
    assert len(manifest.history) == 1
    assert Manifest.from_json(longer.to_json(), "here") == longer


@pytest.mark.parametrize("number", [0, 2, 99, 10**30])
def test_another_format_says_to_install_a_newer_lmonnx(text, number):
    with pytest.raises(BundleError, match=rf"is of format {number}, .*install a newer lmonnx"):
        Manifest.from_json(changed(text, format=number), "here")


@pytest.mark.parametrize("number", [None, "1", 1.0, True, [1]])
def test_a_format_that_is_no_number_is_no_manifest(text, number):
    with pytest.raises(BundleError, match="states no format number"):
        Manifest.from_json(changed(text, format=number), "here")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "1" * 5000, '{"a": 1}'])
def test_what_is_no_manifest_is_one_line_that_names_it(text):
    with pytest.raises(BundleError, match=r"^here ") as caught:
        Manifest.from_json(text, "here")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", range(0, 2000, 97))
def test_a_manifest_cut_short_is_not_json(text, size):
    with pytest.raises(BundleError, match="is not JSON"):
        Manifest.from_json(text[:size], "here")


def test_an_unknown_field_and_an_unknown_task_are_named(text):
    with pytest.raises(BundleError, match="unknown field 'plugins'"):
        Manifest.from_json(changed(text, plugins=["x"]), "here")
    with pytest.raises(BundleError, match="task is 'poetry', must be one of text-classification"):
        Manifest.from_json(changed(text, task="poetry"), "here")
