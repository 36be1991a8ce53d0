"""Wrong and hostile files of sentence-transformers: one line each, and nothing is run."""

import json

import pytest

from lmonnx.errors import StageError, UnsupportedError
from tests.embedder_files import (
    DENSE,
    MEAN,
    refused,
    write_dense,
    write_json,
    write_modules,
)

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{", StageError, "is not JSON"),
        ("[" * 100_000, StageError, "is not JSON"),
        ("{}", StageError, "is not a list of modules"),
        ("[]", StageError, "is not a list of modules"),
        ("[3]", StageError, "has no type or no path"),
        ('[{"type": 3, "path": ""}]', StageError, "has no type or no path"),
        ('[{"type": "custom_st.Transformer", "path": ""}]', UnsupportedError, "is not run"),
        ('[{"type": "os.system", "path": ""}]', UnsupportedError, "is not run"),
    ],
)
def test_a_wrong_modules_file_is_an_error_of_one_line(tmp_path, text, error, said):
    source = write_modules(tmp_path / "source")
    (source / "modules.json").write_text(text)
    refused(source, error, said)


@pytest.mark.parametrize("path", ["../x", "/etc", "a/../../x", "C:\\x", "a//b", ".", "a\nb"])
def test_a_folder_outside_the_checkpoint_is_refused(tmp_path, path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN))
    modules = json.loads((source / "modules.json").read_text())
    modules[1]["path"] = path
    write_json(source / "modules.json", modules)
    write_json(tmp_path / "x" / "config.json", MEAN)
    refused(source, StageError, "outside the checkpoint")


def test_an_encoder_in_a_folder_of_its_own_is_refused(tmp_path):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN))
    modules = json.loads((source / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(source / "modules.json", modules)
    refused(source, UnsupportedError, "move its files beside modules.json")


@pytest.mark.parametrize(
    ("name", "value", "error", "said"),
    [
        ("1_Pooling/config.json", None, StageError, "has no 1_Pooling/config.json"),
        ("1_Pooling/config.json", [], StageError, "not an object"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": "yes"}, StageError, "no boolean"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, UnsupportedError, "'median' is none"),
        ("1_Pooling/config.json", {"pooling_mode": []}, UnsupportedError, r"\[\] is none of cls"),
        ("1_Pooling/config.json", {"embedding_dimension": 31}, StageError, "for vectors of 31"),
        ("2_Dense/config.json", None, StageError, "has no 2_Dense/config.json"),
        ("2_Dense/model.safetensors", None, StageError, "2_Dense has none of"),
        ("2_Dense/model.safetensors", [], StageError, "safetensors"),
    ],
)
def test_a_wrong_module_file_is_an_error_of_one_line(tmp_path, name, value, error, said):
    source = write_modules(tmp_path / "source", ("Pooling", MEAN), ("Dense", DENSE))
    write_dense(source / "2_Dense")
    if value is None:
        (source / name).unlink()
    else:
        write_json(source / name, value)
    refused(source, error, said)
