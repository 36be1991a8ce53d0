"""Run a stage again and again, kill it at a random moment, and say what it left: JSON lines.

    python tests/kill.py copy|export SOURCE TARGET TRIALS [force]

The stage runs in a forked child, so that a trial costs milliseconds and not an import.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import draft_at
from lmonnx.errors import BundleError

PAUSE = 0.002


def copy_stage(source: Path, target: Path, mark: str) -> None:
    """Write a copy of a bundle, slowly, marked in its card."""
    bundle = Bundle.open(source, verify=False)
    with draft_at(target, force=True) as draft:
        for name in bundle.manifest.files or {}:
            draft.copy(bundle, [name])
            time.sleep(PAUSE)
        draft.file("README.md").write_text(mark)
        draft.seal(bundle.manifest)


def export_stage(source: Path, target: Path, mark: str) -> None:
    """Export a checkpoint; the mark is its licence."""
    from lmonnx.compiler.checkpoint import open_checkpoint
    from lmonnx.compiler.export import export

    (source / "README.md").write_text(f"---\nlicense: {mark}\n---\n")
    export(open_checkpoint(str(source)), target, force=True)


STAGES: dict[str, Callable[[Path, Path, str], None]] = {
    "copy": copy_stage,
    "export": export_stage,
}


def child(stage: Callable[[Path, Path, str], None], *arguments: object) -> int:
    """Start the stage in a child of its own; return its process id."""
    if process := os.fork():
        return process
    try:
        stage(*arguments)  # type: ignore[arg-type]
    finally:
        os._exit(0)


def state(target: Path) -> str:
    """Return absent, broken, or the mark of the bundle that is there."""
    if not os.path.lexists(target):
        return "absent"
    try:
        bundle = Bundle.open(target)
    except BundleError as error:
        return f"broken: {error}"
    return bundle.manifest.source.license or bundle.file("README.md").read_text()


def main(name: str, source: Path, target: Path, trials: int, *, force: bool) -> None:
    """Kill `trials` runs, each over an old bundle with `force`, else over nothing."""
    stage, draw = STAGES[name], random.Random(7)
    stage(source, target, "old")  # its imports, which no child waits for
    start = time.perf_counter()
    stage(source, target, "old")
    whole = time.perf_counter() - start
    for _ in range(trials):
        if force and state(target) != "old":
            stage(source, target, "old")
        elif not force:
            shutil.rmtree(target, ignore_errors=True)
        process = child(stage, source, target, "new")
        time.sleep(draw.uniform(0, 2.5 * whole))  # a busy machine may take longer than before
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        left = sum(path != target for path in target.parent.iterdir())
        outcome = {"state": state(target), "left": left}
        if outcome["state"] == "absent" and force:  # the next run puts the old one back
            process = child(stage, source, target, "next")
            os.waitpid(process, 0)
            outcome["next"] = state(target)
        print(json.dumps(outcome), flush=True)
    stage(source, target, "last")
    print(json.dumps({"state": state(target), "left": len(list(target.parent.iterdir())) - 1}))


if __name__ == "__main__":
    main(
        sys.argv[1],
        Path(sys.argv[2]),
        Path(sys.argv[3]),
        int(sys.argv[4]),
        force="force" in sys.argv[5:],
    )
