"""Run a command in a fresh process, and say how long it took and how much memory it held."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in


@dataclass(frozen=True, slots=True)
class Run:
    """A finished process: its standard output, seconds from start to end, peak resident bytes."""

    output: str
    seconds: float
    peak: int


def run_cold(command: Sequence[str], *, cwd: Path | None = None) -> Run:
    """Run a command to its end.

    Raises:
        CalledProcessError: It exits with anything but 0.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cwd) as process:
        output = process.stdout.read() if process.stdout else ""
        # wait4 alone tells the peak of this one child.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Run(output, seconds, usage.ru_maxrss * MAXRSS_UNIT)
