"""Times and memory of the tiny bundle."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Task
from lmonnx.errors import InputError
from lmonnx.measure.speed import _counted, _latencies, bench, load_ms, peak_mib
from lmonnx.runtime.session import CPU
from lmonnx.runtime.threads import available_threads
from lmonnx.runtime.tuned import Tuned, write


def test_percentiles_rise_and_throughput_is_of_all_texts(tiny_bundle):
    texts = ["the film is good", "bad", ""]
    speed = bench(tiny_bundle, texts, rounds=2, threads=1)
    assert (speed.texts, speed.threads, speed.rounds) == (3, 1, 2)
    assert 0 < speed.p50_ms <= speed.p95_ms <= speed.p99_ms
    assert speed.texts_per_s / speed.texts == pytest.approx(speed.tokens_per_s / speed.tokens)
    assert speed.load_ms > 0


def test_two_texts_in_a_tuple_are_two_texts(tiny_bundle):
    assert bench(tiny_bundle, ("good", "bad"), rounds=1).texts == 2


@pytest.mark.parametrize(("texts", "rounds"), [([], 1), (["good"], 0)])
def test_nothing_to_time_is_refused(tiny_bundle, texts, rounds):
    with pytest.raises(InputError, match="at least one of each"):
        bench(tiny_bundle, texts, rounds=rounds)


def test_a_load_takes_time(tiny_bundle):
    assert load_ms(Bundle.open(tiny_bundle), rounds=1) > 0


def test_peak_memory_is_this_processs_own(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t  2048 kB\n")
    assert peak_mib(status) == 2
    assert peak_mib(tmp_path / "none") > 1


@pytest.mark.parametrize("count", [1, 99, 500, 999, 1499, 5000])
def test_latencies_are_of_texts_from_all_over_the_list(count):
    asked = []
    spent = _latencies(asked.extend, [str(place) for place in range(count)])
    places = [int(text) for text in asked]
    assert len(spent) == min(max(count, 100), 500)
    assert sum(places) / len(places) == pytest.approx((count - 1) / 2, rel=0.02)


def test_threads_are_those_the_model_has_also_where_they_were_tuned(
    tiny_bundle, tmp_path, monkeypatch
):
    monkeypatch.setenv("LMONNX_CACHE", str(tmp_path))
    settings = Tuned(available_threads() + 1, 256, wide_int8=False, thread_per_batch=False)
    write(Bundle.open(tiny_bundle), (CPU,), settings)
    assert bench(tiny_bundle, ["good"], rounds=1).threads == settings.threads


def test_the_tokens_of_a_ranking_are_those_of_one_query_and_every_document():
    model = SimpleNamespace(
        bundle=SimpleNamespace(manifest=SimpleNamespace(task=Task.TEXT_RANKING))
    )
    assert _counted(model, [("q", "d"), ("r", "e")]) == [("q", "d"), ("q", "e")]
