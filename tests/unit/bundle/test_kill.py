"""SIGKILL at any moment leaves the target absent or whole; see tests/kill.py for how it is done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl")
ROOT = Path(__file__).parents[3]


def killed(stage: str, source: Path, target: Path, trials: int, *more: str) -> list[dict]:
    """Return what every killed run left, and what the last, whole one did."""
    target.parent.mkdir()
    ran = subprocess.run(
        [sys.executable, ROOT / "tests" / "kill.py", stage, source, target, str(trials), *more],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_killed_stage_leaves_the_target_absent_or_whole(tiny_bundle, tmp_path):
    *trials, last = killed("copy", tiny_bundle, tmp_path / "out" / "bundle", 60)
    assert {trial["state"] for trial in trials} == {"absent", "new"}
    assert any(trial["left"] for trial in trials)  # some were killed while writing
    assert last == {"state": "last", "left": 0}


def test_a_stage_killed_with_force_leaves_the_old_or_the_new_bundle(tiny_bundle, tmp_path):
    *trials, last = killed("copy", tiny_bundle, tmp_path / "out" / "bundle", 60, "force")
    assert {"old", "new"} <= {trial["state"] for trial in trials} <= {"old", "new", "absent"}
    assert all(trial.get("next", "next") == "next" for trial in trials)
    assert last == {"state": "last", "left": 0}


@pytest.mark.compiler
@pytest.mark.parametrize("force", [[], ["force"]])
def test_a_killed_export_leaves_the_target_absent_or_whole(bert_checkpoint, tmp_path, force):
    from tests import tiny

    source = tiny.write_bert(tmp_path / "tiny-bert")
    *trials, last = killed("export", source, tmp_path / "out" / "bundle", 30, *force)
    assert {trial["state"] for trial in trials} <= {"absent", "old", "new"}
    assert any(trial["left"] for trial in trials)
    assert last == {"state": "last", "left": 0}
