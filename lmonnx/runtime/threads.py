"""How many threads this process may really use: affinity and the cgroup's quota, not the host."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

_CGROUP = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self/cgroup")


def available_threads(root: Path = _CGROUP, self_file: Path = _SELF) -> int:
    """Return the number of threads to use: at least 1, at most the CPUs of the affinity mask.

    A container limited to 1.5 CPUs gets 2: the quota is rounded up.

    Args:
        root: Where the cgroup file system is mounted.
        self_file: The file that names this process's cgroups.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _folders(root, self_file) if (quota := _quota(folder))]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def _folders(root: Path, self_file: Path) -> list[Path]:
    """Return this process's cgroup folders and all above them: every level may hold a limit."""
    found: list[Path] = []
    try:
        lines = self_file.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root if not controllers else root / "cpu"
        if controllers and "cpu" not in controllers.split(","):
            continue
        inside = PurePosixPath(path.lstrip("/"))
        found += [base / part for part in (inside, *inside.parents)]
    return found or [root, root / "cpu"]


def _quota(folder: Path) -> float | None:
    """Return the CPUs that a cgroup (v2, then v1) may use, None where there is no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return None
    return share if share > 0 else None
