"""What was tuned is used by `load` on the same host for the same graph, and by nothing else."""

import json
from dataclasses import asdict, replace

import pytest

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import StageError
from lmonnx.runtime import tuned
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tuned import Tuned, TunedDecoder
from tests.unit.runtime.generate.tiny_decoder import FOLDER as DECODER

SETTINGS = Tuned(threads=1, max_tokens=96, wide_int8=True, thread_per_batch=False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMONNX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_load_takes_what_was_tuned_unless_told_otherwise(cache, tiny_bundle):
    assert lmonnx.load(tiny_bundle).config.max_tokens is None
    tuned.write(Bundle.open(tiny_bundle), (CPU,), SETTINGS)
    config = lmonnx.load(tiny_bundle).config
    assert (config.threads, config.max_tokens, config.wide_int8) == (1, 96, True)
    config = lmonnx.load(tiny_bundle, threads=2, max_tokens=64).config
    assert (config.threads, config.max_tokens) == (2, 64)


def test_another_graph_provider_or_host_has_settings_of_its_own(cache, tiny_bundle, monkeypatch):
    bundle = Bundle.open(tiny_bundle)
    tuned.write(bundle, (CPU,), SETTINGS)
    files = {name: replace(info, sha256="0" * 64) for name, info in bundle.manifest.files.items()}
    other = replace(bundle, manifest=replace(bundle.manifest, files=files))
    assert tuned.read(bundle, (CPU,)) == SETTINGS
    assert tuned.read(other, (CPU,)) is None
    assert tuned.read(bundle, ("CUDAExecutionProvider",)) is None
    monkeypatch.setattr(tuned, "available_threads", lambda: 77)
    assert tuned.read(bundle, (CPU,)) is None


def test_a_step_that_changes_no_graph_keeps_the_settings(cache, tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    tuned.write(bundle, (CPU,), SETTINGS)
    step = bundle.manifest.history[0]
    later = replace(bundle, manifest=bundle.manifest.with_step(step))
    assert tuned.read(later, (CPU,)) == SETTINGS


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "\xff", "[" * 4000, " " * 5000,
        json.dumps(asdict(SETTINGS) | {"threads": 0}),
        json.dumps(asdict(SETTINGS) | {"max_tokens": 2**40}),
        json.dumps(asdict(SETTINGS) | {"wide_int8": 1}),
        json.dumps(asdict(SETTINGS) | {"more": 1}),
        json.dumps({"threads": 1, "max_tokens": 96, "wide_int8": True}),
    ],
)  # fmt: skip
def test_a_damaged_file_is_passed_over(cache, tiny_bundle, text):
    bundle = Bundle.open(tiny_bundle)
    path = tuned.write(bundle, (CPU,), SETTINGS)
    path.write_text(text, encoding="latin-1")
    assert tuned.read(bundle, (CPU,)) is None
    assert lmonnx.load(tiny_bundle).config.max_tokens is None


def test_a_decoders_settings_are_of_their_own_kind(cache):
    bundle, settings = Bundle.open(DECODER), TunedDecoder(threads=1, lone_rows=0)
    tuned.write(bundle, (CPU,), settings)
    assert tuned.read(bundle, (CPU,)) == settings
    with lmonnx.load(DECODER) as model:
        assert (model.config.threads, model.config.lone_rows) == (1, 0)
    with lmonnx.load(DECODER, threads=2) as model:
        assert (model.config.threads, model.config.lone_rows) == (2, 0)
    for wrong in (SETTINGS, replace(settings, lone_rows=-1), replace(settings, threads=0)):
        tuned.write(bundle, (CPU,), wrong)
        assert tuned.read(bundle, (CPU,)) is None


def test_a_cache_that_cannot_be_written_is_one_line(cache, tiny_bundle):
    cache.write_text("a file")
    with pytest.raises(StageError, match="set LMONNX_CACHE"):
        tuned.write(Bundle.open(tiny_bundle), (CPU,), SETTINGS)
    assert tuned.read(Bundle.open(tiny_bundle), (CPU,)) is None


def test_without_a_home_there_is_nothing_tuned(tiny_bundle, monkeypatch):
    for name in ("LMONNX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> None:
        raise RuntimeError

    monkeypatch.setattr(tuned.Path, "home", no_home)
    assert tuned.read(Bundle.open(tiny_bundle), (CPU,)) is None
    with pytest.raises(StageError, match="set LMONNX_CACHE"):
        tuned.write(Bundle.open(tiny_bundle), (CPU,), SETTINGS)
