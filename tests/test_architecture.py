"""What the tree promises: small files, one door a dependency, nothing at import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lmonnx"
FILES = sorted(PACKAGE.rglob("*.py"))
# Dependency → the files that may import it, at the top or inside a function.
DOORS = {
    "onnxruntime": {"runtime/session.py", "runtime/binding.py"},
    "gguf": {"compiler/checkpoint/gguf_tensor.py"},
    "llguidance": {"runtime/generate/structured.py"},
    "tokenizers": {
        "runtime/tokenizer.py",
        "compiler/export/text.py",
        "compiler/export/vocabulary.py",
        "compiler/export/added_tokens.py",
        "compiler/export/sentencepiece_tokenizer.py",
        "compiler/export/byte_level_tokenizer.py",
        "compiler/export/llama_tokenizer.py",
        "compiler/export/marian_tokenizer.py",
        "compiler/export/byte_tokenizer.py",
        "compiler/export/ruled_tokenizer.py",
    },
    "sacrebleu": {"measure/bleu.py"},
    "rouge_score": {"measure/rouge.py"},
    "optimum": {"compiler/export/traced.py"},
    "huggingface_hub": {"compiler/checkpoint/hub.py"},
    "pickle": set(),
    "cloudpickle": set(),
    "dill": set(),
    "safetensors": set(),
}
VAGUE = {"utils", "helpers", "common", "misc", "tools", "manager"}


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_is_at_most_300_lines(path):
    limit = 400 if "cli" in path.relative_to(PACKAGE).parts else 300
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize("dependency", DOORS)
def test_a_dependency_has_one_door(dependency):
    importers = {name(path) for path in FILES if dependency in imported(path)}
    assert importers <= DOORS[dependency]


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_says_what_it_is_and_has_a_name_that_says_it_too(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert path.stem not in VAGUE


def test_the_runtime_never_asks_for_the_architecture():
    for path in sorted((PACKAGE / "runtime").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert "model_type" not in text, path
        assert ".architecture" not in text, path


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_names_a_place_on_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not any(place in text for place in ("/home/", "/work/", "/tmp/", "/Users/"))
