"""Tuning tries budgets, threads and kernels, and keeps the fastest for `load`."""

import pytest

import lmonnx
from lmonnx.errors import InputError
from lmonnx.measure.tune import BUDGETS, tune
from tests.cli.command_line import lines, run

TEXTS = ["the film is good", "bad", "a very good film that is not bad at all"] * 5


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LMONNX_CACHE", str(tmp_path / "cache"))


def test_every_budget_is_tried_and_the_kept_settings_are_loaded(tiny_bundle):
    found = tune(tiny_bundle, TEXTS)
    assert {trial.settings.max_tokens for trial in found.trials} >= set(BUDGETS)
    assert all(trial.texts_per_s > 0 for trial in found.trials)
    config = lmonnx.load(tiny_bundle).config
    kept = (found.settings.threads, found.settings.max_tokens, found.settings.wide_int8)
    assert (config.threads, config.max_tokens, config.wide_int8) == kept


def test_no_texts_are_refused(tiny_bundle):
    with pytest.raises(InputError, match="no texts to tune with"):
        tune(tiny_bundle, [])


def test_the_command_says_what_it_kept_and_where(tiny_bundle, tmp_path):
    (line,) = lines(run("tune", tiny_bundle, "--file", "-", "--json", stdin="\n".join(TEXTS)))
    assert line["file"].startswith(str(tmp_path / "cache"))
    assert line["settings"] in [trial["settings"] for trial in line["trials"]]
    shown = run("tune", tiny_bundle, "--file", "-", stdin="\n".join(TEXTS))
    assert shown.exit_code == 0
    assert "tokens a batch" in shown.stdout
