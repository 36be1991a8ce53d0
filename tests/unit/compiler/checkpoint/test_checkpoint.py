"""What a folder says of itself, and how a source is told from a hub id."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.errors import InputError, StageError

pytestmark = pytest.mark.compiler


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-bert"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    save_file({"w": np.ones(2, np.float32)}, folder / "model.safetensors")
    return folder


def test_a_folder_is_named_by_itself_and_never_by_its_path(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for source in (str(folder), ".", f"{folder}/"):
        checkpoint = open_checkpoint(source)
        assert (checkpoint.repo, checkpoint.revision) == ("tiny-bert", "")
    assert checkpoint.architecture == "bert"
    assert checkpoint.weights().read("w").tolist() == [1, 1]


@pytest.mark.parametrize("config", ["{", "[]", "", "\xff", "[" * 100_000])
def test_a_damaged_config_is_named(folder, config):
    (folder / "config.json").write_text(config, encoding="latin-1")
    with pytest.raises(StageError, match=r"config\.json (is not JSON|holds a JSON list)"):
        open_checkpoint(str(folder))


def test_a_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(StageError, match=r"has no config\.json"):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": ["bert"]}])
def test_a_config_without_model_type_says_to_add_it(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(StageError, match="has no model_type"):
        _ = open_checkpoint(str(folder)).architecture


def test_json_above_64_mib_is_refused_unread(folder):
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(StageError, match="above the 64 MiB"):
        open_checkpoint(str(folder)).json_file("tokenizer.json")


def test_json_files_are_read_by_name_and_none_when_absent(folder):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.json_file("1_Pooling/config.json") == {"pooling_mode_mean_tokens": True}
    assert checkpoint.json_file("generation_config.json") is None


@pytest.mark.parametrize(
    "name", ["../secret.json", "/etc/x.json", "a/../../x.json", "..\\x", "a\0"]
)
def test_json_files_outside_the_folder_are_refused(folder, name):
    with pytest.raises(StageError, match="outside its folder"):
        open_checkpoint(str(folder)).json_file(name)


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model", "apache-2.0"),
        ("---\r\nlicense: 'mit'\r\n---\r\n", "mit"),
        ("---\nlicense:\n  - cc-by-4.0\n---\n", "cc-by-4.0"),
        ("---\ntags: [x]\n---\nlicense: mit", ""),
        ("# Model\nlicense: mit", ""),
        (None, ""),
    ],
)
def test_the_licence_is_read_from_the_front_matter(folder, readme, expected):
    if readme is not None:
        (folder / "README.md").write_bytes(readme.encode())
    assert open_checkpoint(str(folder)).license == expected


@pytest.mark.parametrize(
    "source",
    ["/no/such/folder", "./missing", "a/b/c", "", "no such", "../x", "~nobody", "a" * 300, "a\0"],
)
def test_what_is_neither_a_folder_nor_a_hub_id_says_both(source):
    with pytest.raises(StageError, match="neither a folder nor a hub id"):
        open_checkpoint(source)


def test_a_file_is_no_folder(folder):
    with pytest.raises(StageError, match="neither a folder nor a hub id"):
        open_checkpoint(str(folder / "config.json"))


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(InputError, match="a folder, which has no revision v1"):
        open_checkpoint(str(folder), revision="v1")
