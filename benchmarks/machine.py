"""Say what computer a measurement was made on, without naming it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
FEATURES = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def describe() -> dict[str, Any]:
    """Return the CPU's model, its features that int8 arithmetic cares about, cores and system."""
    fields = _cpuinfo()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "family": fields.get("cpu family", ""),
        "model": fields.get("model", ""),
        "features": {name: name in flags for name in FEATURES},
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def slug(machine: dict[str, Any]) -> str:
    """Return a folder's name for this kind of CPU, such as `amd-epyc-avx512-vnni`."""
    features = [name for name, there in machine["features"].items() if there]
    vnni = [name for name in features if name.endswith("_vnni")]
    words = f"{machine['cpu']} {(vnni or ['no-vnni'])[-1]}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words.replace("(r)", "").replace("(tm)", "")).strip("-")


def load_average() -> list[float]:
    """Return the load of the last 1, 5 and 15 minutes: above 0 before a run means disturbance."""
    return [round(load, 2) for load in os.getloadavg()]


def _cpuinfo() -> dict[str, str]:
    if not CPUINFO.exists():
        return {}
    first = CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
