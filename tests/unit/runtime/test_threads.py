"""How many threads a container may use, told from cgroup trees made here."""

import os
from pathlib import Path

import pytest

from lmonnx.runtime.threads import available_threads


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def tree(root: Path, files: dict[str, str], own: str | None) -> int:
    """Lay out a cgroup file system; return the threads that are used in it."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    self_file = root / "self"
    if own is not None:
        self_file.write_text(own)
    return available_threads(root, self_file)


V1_QUOTA, V1_PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("limit", "threads"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),  # rounded up
        ("10000 100000\n", 1),  # a tenth of a CPU is still a thread
        ("6400000 100000\n", 16),  # never above the affinity mask
        ("max 100000\n", 16),
        ("0 100000\n", 16),
        ("100000 0\n", 16),
        ("", 16),
        ("nonsense\n", 16),
        ("nonsense 100000\n", 16),
    ],
)
def test_version_2_gives_its_quota_rounded_up(tmp_path, limit, threads):
    assert tree(tmp_path, {"cpu.max": limit}, "0::/\n") == threads


def test_the_tightest_limit_of_all_levels_holds(tmp_path):
    files = {
        "a/cpu.max": "800000 100000",
        "a/b/cpu.max": "300000 100000",
        "a/b/c/cpu.max": "max 100000",
        "a/other/cpu.max": "100000 100000",
    }
    assert tree(tmp_path, files, "0::/a/b/c\n") == 3


def test_a_path_that_the_container_cannot_see_falls_back_to_its_root(tmp_path):
    assert tree(tmp_path, {"cpu.max": "400000 100000"}, "0::/docker/0123abcd\n") == 4


@pytest.mark.parametrize(
    ("quota", "threads"), [("250000", 3), ("-1", 16), ("100000", 1), ("0", 16)]
)
def test_version_1_gives_its_quota_rounded_up(tmp_path, quota, threads):
    files = {f"cpu/docker/x/{V1_QUOTA}": quota, f"cpu/docker/x/{V1_PERIOD}": "100000\n"}
    own = "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n"
    assert tree(tmp_path, files, own) == threads


def test_a_cpuset_is_no_cpu_controller(tmp_path):
    files = {f"cpu/x/{V1_QUOTA}": "100000", f"cpu/x/{V1_PERIOD}": "100000"}
    assert tree(tmp_path, files, "3:cpuset:/x\n2:cpuacct:/x\n") == 16


def test_both_versions_at_once_are_both_read(tmp_path):
    files = {
        "x/cpu.max": "500000 100000",
        f"cpu/y/{V1_QUOTA}": "200000",
        f"cpu/y/{V1_PERIOD}": "100000",
    }
    assert tree(tmp_path, files, "4:cpu:/y\n0::/x\n") == 2


@pytest.mark.parametrize("own", [None, ""])
def test_without_a_list_of_cgroups_the_root_is_read(tmp_path, own):
    assert tree(tmp_path, {"cpu.max": "300000 100000"}, own) == 3


def test_without_cgroups_the_affinity_mask_is_the_limit(tmp_path, monkeypatch):
    assert tree(tmp_path, {}, None) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert tree(tmp_path, {"cpu.max": "300000 100000"}, "0::/\n") == 1


def test_this_machine_gives_at_least_one():
    assert available_threads() >= 1
