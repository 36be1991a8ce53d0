"""Any module of the compiler can be the first that a process imports: none needs another before."""

import subprocess
import sys
from pathlib import Path

import pytest

import lmonnx

pytestmark = pytest.mark.compiler
ROOT = Path(lmonnx.__file__).parent
STAGES = [
    ".".join(["lmonnx", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in sorted([*ROOT.glob("compiler/*.py"), *ROOT.glob("compiler/*/__init__.py")])
]


def test_every_stage_is_looked_at():
    assert {"lmonnx.compiler.verify", "lmonnx.compiler.quantize"} <= set(STAGES)


@pytest.mark.parametrize("module", STAGES)
def test_a_module_is_imported_first(module):
    command = [sys.executable, "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
