"""The runtime needs numpy, onnxruntime and tokenizers, and loads nothing else."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lmonnx"
HEAVY = {
    "torch", "transformers", "optimum", "onnx", "onnx_ir", "onnxscript", "ml_dtypes", "click",
    "rich", "safetensors", "huggingface_hub", "jinja2",
}  # fmt: skip
ALLOWED = {"numpy", "onnxruntime", "tokenizers", "jinja2", *sys.stdlib_module_names}
ALLOWED_IN = {  # of extras, imported when they are needed
    "runtime/generate/structured.py": {"llguidance"},
    "measure/bleu.py": {"sacrebleu"},
    "measure/rouge.py": {"rouge_score"},
}
SANDBOX = "lmonnx.runtime.generate.chat_sandbox"  # subclasses what jinja2 has
DECODER = ROOT / "tests" / "unit" / "runtime" / "generate" / "tiny-decoder"
PAIR = DECODER.with_name("tiny-seq2seq")
LEAN = ("runtime", "bundle", "measure", "errors", "progress")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def sources() -> list[Path]:
    found = [PACKAGE / f"{name}.py" for name in LEAN if (PACKAGE / f"{name}.py").exists()]
    return found + [path for name in LEAN for path in sorted((PACKAGE / name).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found.add(str(node.module))
    return found


def test_loading_and_answering_loads_no_heavy_module(tiny_bundle):
    code = (
        "import sys, lmonnx\n"
        "answer = lmonnx.load(sys.argv[1])(['a good film', ('a', 'b')])\n"
        "print(len(answer), *{name.partition('.')[0] for name in sys.modules})"
    )
    ran = run(code, str(tiny_bundle))
    assert ran.returncode == 0, ran.stderr
    number, *loaded = ran.stdout.split()
    assert number == "2"
    assert not HEAVY & set(loaded)
    assert {"numpy", "onnxruntime", "tokenizers"} <= set(loaded)


def test_generating_loads_no_heavy_module_and_a_chat_jinja2():
    code = (
        "import sys, lmonnx\n"
        "params = lmonnx.SamplingParams(max_new_tokens=3, temperature=1, seed=0)\n"
        "model = lmonnx.load(sys.argv[1])\n"
        "model(['a', 'b'], params)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
        "model.chat([{'role': 'user', 'content': 'a'}], params)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    ran = run(code, str(DECODER))
    assert ran.returncode == 0, ran.stderr
    plain, chat = (set(line.split()) for line in ran.stdout.splitlines())
    assert not HEAVY & plain
    assert HEAVY & chat == {"jinja2"}


def test_translating_loads_no_heavy_module():
    code = (
        "import sys, lmonnx\n"
        "model = lmonnx.load(sys.argv[1])\n"
        "answers = model(['a b', '', 'b'])\n"
        "print(len(answers), *{name.partition('.')[0] for name in sys.modules})\n"
    )
    ran = run(code, str(PAIR))
    assert ran.returncode == 0, ran.stderr
    count, *loaded = ran.stdout.split()
    assert count == "3" and not HEAVY & set(loaded)


@pytest.mark.parametrize("use", ["import lmonnx; lmonnx.load", "from lmonnx import load"])
def test_without_onnxruntime_every_name_says_which_extra_to_install(use):
    code = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'onnxruntime':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda n, p=None: None if n == 'onnxruntime' else real(n, p)\n"
        "import lmonnx\n"
        "assert lmonnx.__version__ and not hasattr(lmonnx, '__nothing__')\n"
    )
    ran = run(code + use)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: lmonnx needs onnxruntime")
    assert "pip install 'lmonnx[cpu]' or pip install 'lmonnx[gpu]'" in last


def test_importing_writes_nothing_and_warns_of_nothing():
    ran = run("import warnings; warnings.simplefilter('error'); import lmonnx")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_lean_module_imports_only_what_is_allowed(path):
    for name in imports(path):
        first, _, rest = name.partition(".")
        if first == "lmonnx":
            assert rest.partition(".")[0] in LEAN, f"{path} imports {name}"
        else:
            allowed = ALLOWED | ALLOWED_IN.get(path.relative_to(PACKAGE).as_posix(), set())
            assert first in allowed, f"{path} imports {name}"


def test_jinja2_is_imported_by_its_sandbox_alone_and_that_when_needed():
    for path in sources():
        if path.stem == SANDBOX.rpartition(".")[2]:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert {"jinja2", SANDBOX}.isdisjoint(names | {module}), path
