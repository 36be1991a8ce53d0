"""Times and memory of the tiny bundle."""

from pathlib import Path

import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import InputError
from lmonnx.measure.speed import bench, load_ms, peak_mib


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
