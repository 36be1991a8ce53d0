"""Tuning a decoder times both graphs at every row count, and keeps what makes all steps fastest."""

from dataclasses import replace

import pytest

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError
from lmonnx.measure import tune_decoder as module
from lmonnx.measure.tune_decoder import PROMPT_TOKENS, ROWS, tune_decoder
from lmonnx.runtime.session import CPU
from lmonnx.runtime.tuned import LONE_ROWS, TunedDecoder
from tests.cli.command_line import lines, run
from tests.unit.runtime.generate.tiny_decoder import FOLDER


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMONNX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def both(monkeypatch):
    """Let every bundle that is tuned have a lone graph too."""
    bundle = Bundle.open(FOLDER)
    graph = bundle.manifest.graphs["model"]
    manifest = replace(bundle.manifest, graphs={"model": graph, "lone": graph})
    monkeypatch.setattr(module.Bundle, "open", lambda path: replace(bundle, manifest=manifest))


def test_one_graph_is_timed_at_every_size_and_threads_are_kept_for_load():
    found = tune_decoder(FOLDER)
    assert {step.rows for step in found.steps} == {*ROWS, PROMPT_TOKENS}
    assert all(step.graph == "model" and step.ms > 0 for step in found.steps)
    assert found.settings.lone_rows is None and found.gain >= 1
    with lmonnx.load(FOLDER) as model:
        assert model.config.threads == found.settings.threads


@pytest.mark.parametrize("last", [0, 1, 6, 16])
def test_lone_is_kept_up_to_where_it_stops_to_be_faster(both, monkeypatch, last):
    def timed(bundle, providers, progress):
        return {
            (threads, role, rows): 1 + (role == ("model" if rows <= last else "lone"))
            for threads in (1, 2)
            for role in ("model", "lone")
            for rows in (*ROWS, PROMPT_TOKENS)
        }

    monkeypatch.setattr(module, "_timed", timed)
    monkeypatch.setattr(module, "thread_counts", lambda most: [most])
    monkeypatch.setattr(module, "default_lone_rows", lambda: LONE_ROWS)
    monkeypatch.setattr(module.SessionConfig, "threads_used", 2)
    assert tune_decoder(FOLDER).settings == TunedDecoder(2, last)


def test_both_graphs_are_timed(both):
    found = tune_decoder(FOLDER)
    assert {step.graph for step in found.steps} == {"model", "lone"}
    assert found.settings.lone_rows in (*ROWS, LONE_ROWS, 0)


def test_a_graph_for_prompts_is_timed_on_prompts(monkeypatch):
    bundle = Bundle.open(FOLDER)
    graph = bundle.manifest.graphs["model"]
    manifest = replace(bundle.manifest, graphs={"model": graph, "prompt": graph})
    monkeypatch.setattr(module.Bundle, "open", lambda path: replace(bundle, manifest=manifest))
    found = tune_decoder(FOLDER)
    assert {step.rows for step in found.steps if step.graph == "prompt"} == {PROMPT_TOKENS}
    assert found.settings.lone_rows is None


def test_what_is_no_decoder_is_refused(tiny_bundle):
    with pytest.raises(BundleError, match="says nothing of generation"):
        tune_decoder(tiny_bundle, providers=(CPU,))


def test_the_command_tunes_decoders_too(tmp_path):
    (line,) = lines(run("tune", FOLDER, "--json"))
    assert line["file"].startswith(str(tmp_path / "cache")) and "lone_rows" not in line["settings"]
    shown = run("tune", FOLDER)
    assert shown.exit_code == 0 and "threads" in shown.stdout
    refused = run("tune", FOLDER, "--file", "-", stdin="a text")
    assert refused.exit_code != 0 and "--file means nothing" in refused.stderr
