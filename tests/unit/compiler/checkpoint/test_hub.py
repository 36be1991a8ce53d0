"""Downloads from a stand-in hub, each in a process: huggingface_hub reads its settings once."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save

from lmonnx.compiler.checkpoint.hub import needed
from tests.hub_server import TOKEN, Hub, Repo, running

pytestmark = pytest.mark.compiler

NAME = "lab/tiny-bert"
WEIGHTS = save({"w": np.arange(6, dtype=np.float32)})
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "vocab.txt": b"[PAD]\n",
    "README.md": b"---\nlicense: mit\n---\n",
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
    "2_Dense/config.json": b"{}",
    "2_Dense/pytorch_model.bin": b"a layer",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"not wanted",
    "tf_model.h5": b"not wanted",
    "onnx/model.onnx": b"not wanted",
}
SCRIPT = """
import sys
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.errors import StageError
try:
    checkpoint = open_checkpoint(sys.argv[1], revision=sys.argv[2] or None)
except StageError as error:
    sys.exit(f"StageError: {error}")
print(checkpoint.path, checkpoint.revision, checkpoint.repo, sep="\\n")
"""


@pytest.fixture
def hub():
    with running() as hub:
        hub.repos[NAME] = Repo(dict(FILES))
        yield hub


@pytest.fixture
def download(hub: Hub, tmp_path: Path):
    """A function that opens a checkpoint in a new process; settings are environment variables."""

    def run(repo: str = NAME, revision: str = "", **settings: str) -> SimpleNamespace:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith("HF_") and "proxy" not in k.lower()
        }
        home = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(Path.cwd()),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, repo, revision],
            env=kept | home | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )
        path, commit, name = (done.stdout.splitlines() + [""] * 3)[:3]
        return SimpleNamespace(path=Path(path), commit=commit, repo=name, error=done.stderr)

    return run


def test_what_is_needed_arrives_whole_in_hf_home_and_nothing_else(hub, download, tmp_path):
    got = download()
    found = {
        p.relative_to(got.path).as_posix(): p.read_bytes()
        for p in got.path.rglob("*")
        if p.is_file()
    }
    assert found == {name: data for name, data in FILES.items() if data != b"not wanted"}
    assert got.path.is_relative_to(tmp_path / "home")
    assert (got.repo, got.commit, got.error) == (NAME, hub.repos[NAME].commit, "")


def test_offline_the_cache_answers_without_a_request(hub, download):
    first = download()
    hub.requests.clear()
    assert download(HF_HUB_OFFLINE="1").path == first.path
    assert hub.requests == []


def test_offline_with_nothing_cached_says_so(download):
    assert (
        "is not in the cache and HF_HUB_OFFLINE forbids a download"
        in download(HF_HUB_OFFLINE="1").error
    )


def test_a_hub_that_does_not_answer_is_an_error_until_the_cache_can(download):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "could not be had from http://127.0.0.1:9" in download(**nowhere).error
    first = download()
    assert download(**nowhere).path == first.path


def test_a_private_repository_needs_the_token(hub, download):
    hub.repos[NAME].private = True
    assert "set HF_TOKEN if it is private" in download().error
    assert download(HF_TOKEN=TOKEN).commit == hub.repos[NAME].commit


def test_a_gated_repository_says_to_accept_its_licence(hub, download):
    hub.repos[NAME].gated = True
    assert f"accept its licence at {hub.url}/{NAME} and set HF_TOKEN" in download().error


def test_an_unknown_repository_is_neither_here_nor_there(download):
    error = download("lab/none").error
    assert error.startswith("StageError: lab/none is neither a folder here nor a repository on")
    assert error.count("\n") == 1


def test_an_unknown_revision_is_named_and_a_known_one_taken(hub, download):
    hub.repos[NAME].branches += ("v2",)
    assert "has no revision 'v3'" in download(revision="v3").error
    assert download(revision="v2").commit == hub.repos[NAME].commit


def test_a_connection_that_breaks_is_resumed_for_the_rest(hub, download):
    big = save({"w": np.zeros(3 * 2**20, np.float32)})  # above the 10 MB that are written at once
    hub.repos[NAME].files["model.safetensors"] = big
    hub.drop_after = 11 * 2**20
    got = download()
    if not got.commit:  # huggingface_hub 0.x gives up here, and goes on in the next process
        got = download()
    _, rest = hub.downloads("model.safetensors")
    assert rest.range == f"bytes={len(big) - rest.sent}-"
    assert 0 < rest.sent <= len(big) - 10_000_000
    assert (got.path / "model.safetensors").read_bytes() == big


def test_a_missing_file_is_asked_for_and_complete_ones_are_not(hub, download):
    file = download().path / "model.safetensors"
    file.resolve().unlink()
    file.unlink()
    hub.requests.clear()
    assert (download().path / "model.safetensors").read_bytes() == WEIGHTS
    assert {r.path.rpartition("/")[2] for r in hub.requests if "/resolve/" in r.path} == {file.name}


def test_offline_with_a_part_in_the_cache_says_what_to_do(download):
    (download().path / "model.safetensors").unlink()
    assert "only a part of lab/tiny-bert, without weights" in download(HF_HUB_OFFLINE="1").error


def test_a_repository_without_weights_that_are_read_says_what_would_be(hub, download):
    hub.repos["lab/flax"] = Repo({"config.json": b"{}", "flax_model.msgpack": b"x"})
    assert (
        "lab/flax has no model.safetensors, pytorch_model.bin or ONNX graph"
        in download("lab/flax").error
    )
    assert hub.downloads("config.json") == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.json", "model.safetensors", "pytorch_model.bin"], ["a.json", "model.safetensors"]),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json", "x.safetensors"], 2),
        (["pytorch_model.bin", "tf_model.h5", "training_args.bin"], ["pytorch_model.bin"]),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], 2),
        (["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1", "onnx/a.txt"], 3),
        (["tokenizer.model", "spiece.spm", "chat_template.jinja", "model.safetensors"], 4),
        (["runs/x.json", "model.safetensors"], ["model.safetensors"]),
        (["config.json", "tf_model.h5"], []),
        (["2_Dense/config.json", "2_Dense/model.safetensors"], []),
        (
            [
                "modules.json",
                "1_Pooling/config.json",
                "2_Dense/config.json",
                "2_Dense/model.safetensors",
                "2_Dense/pytorch_model.bin",
                "3_Dense/pytorch_model.bin",
                "10_Normalize/config.json",
                "0_CLIPModel/model.safetensors",
                "2_Dense/optimizer.pt",
                "model.safetensors",
            ],
            [
                "modules.json",
                "1_Pooling/config.json",
                "10_Normalize/config.json",
                "2_Dense/config.json",
                "2_Dense/model.safetensors",
                "3_Dense/pytorch_model.bin",
                "model.safetensors",
            ],
        ),
    ],
)
def test_one_form_of_the_weights_is_needed(files, expected):
    found = needed(files)
    assert (len(found) if isinstance(expected, int) else found) == expected
