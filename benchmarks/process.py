"""A contender's process, seen from the outside: alive through all rounds, stopped between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from types import TracebackType
from typing import Any, Self

from environments import ROOT, python_of

# Nobody asks a hub, and every kind of thread pool has the same size.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
SETTINGS = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


class ContenderError(Exception):
    """Say that a contender failed, and with what."""


class Process:
    """A contender that answers requests, one at a time.

    Between two requests it is stopped by SIGSTOP, so that no thread of it can spin.
    """

    def __init__(self, script: str, environment: str, threads: int) -> None:
        path = ROOT / "benchmarks" / "contenders" / f"{script}.py"
        counts = dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._script = script
        self._process = subprocess.Popen(
            [str(python_of(environment)), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **SETTINGS, **counts},
            text=True,
        )

    def __enter__(self) -> Self:
        """Return the process itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            ContenderError: The contender says so, or has ended.
        """
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ContenderError(f"{self._script} ended; what it said is above")
        self._process.send_signal(signal.SIGSTOP)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ContenderError(f"{self._script}: {reply['error']}")
        return reply
