"""What runs where: a test says by its marker what it needs, and is skipped where that is absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LMONNX_SHARED") or ROOT.parent / "shared").absolute()
MODELS = Path(
    os.environ.get("LMONNX_MODELS") or Path.home() / ".cache" / "lmonnx" / "models"
).absolute()
GOLDEN = ROOT / "tests" / "golden"
# Folders whose modules import what a marker's extra brings.
NEEDS_ONNX = tuple(ROOT / "tests" / name for name in ("unit/compiler", "parity", "cli", "interop"))

settings.register_profile("lmonnx", deadline=None, print_blob=True)
settings.load_profile("lmonnx")


def _is_there(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)


_NEEDS = {
    "compiler": (_is_there("onnx", "safetensors"), "needs the export extra"),
    "parity": (_is_there("torch", "transformers"), "needs torch and transformers"),
    "shared": (SHARED.is_dir(), "LMONNX_SHARED is absent"),
    "models": ((MODELS / "all-minilm-l6-v2").is_dir(), "LMONNX_MODELS has no all-minilm-l6-v2"),
}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out modules that cannot be imported without onnx."""
    absent = not _NEEDS["compiler"][0]
    return True if absent and any(collection_path.is_relative_to(f) for f in NEEDS_ONNX) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this environment cannot run; other libraries may warn as they like."""
    for item in items:
        for marker, (there, reason) in _NEEDS.items():
            if item.get_closest_marker(marker) and not there:
                item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("parity") or item.get_closest_marker("interop"):
            item.add_marker(pytest.mark.filterwarnings("ignore"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run for want of shared material."""
    reports = terminalreporter.stats.get("skipped", [])
    for marker in ("shared", "models"):
        reason = _NEEDS[marker][1]
        if count := sum(reason in str(report.longrepr) for report in reports):
            terminalreporter.write_line(f"{count} tests skipped: {reason}", yellow=True)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what this user has tuned out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMONNX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle() -> Path:
    """Give the frozen float32 bundle, which needs neither onnx nor a checkpoint; never edit it."""
    return GOLDEN / "tiny-bert"


@pytest.fixture
def copied_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Give a copy of the frozen bundle, to be damaged."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle: Path):
    """Give the frozen bundle, loaded."""
    import lmonnx

    return lmonnx.load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def bert_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the tiny BERT (compiler)."""
    from tests import tiny

    return tiny.write_bert(tmp_path_factory.mktemp("checkpoint") / "tiny-bert")


@pytest.fixture(scope="session")
def bert_bundle(bert_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the tiny BERT exported here and now (compiler)."""
    from lmonnx.compiler.checkpoint import open_checkpoint
    from lmonnx.compiler.export import export

    target = tmp_path_factory.mktemp("bundle") / "tiny-bert"
    return export(open_checkpoint(str(bert_checkpoint)), target).path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Give the folder of shared checkpoints and data (shared)."""
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Give the fetched all-minilm-l6-v2, a sentence-transformers folder (models)."""
    return MODELS / "all-minilm-l6-v2"
