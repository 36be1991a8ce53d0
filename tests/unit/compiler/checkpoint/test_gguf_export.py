"""A GGUF file, exported, against the Hugging Face folder of the same model."""

import shutil

import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import tiny, tiny_text
from tests.gguf_files import byte_level_text, read_json, write_gguf
from tests.gguf_models import CONFIGS, VOCABULARY, arrays_of, config_of

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("family", CONFIGS)
def test_a_gguf_file_and_a_folder_of_the_same_model_become_the_same_graph(tmp_path, family):
    tiny_text.write_byte_bpe(tmp_path, "json")
    tokenizer = read_json(tmp_path / "tokenizer.json")
    text = byte_level_text(tokenizer, "gpt-2", VOCABULARY, bos=0, eos=2, padding=1)
    changes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}  # of 8 at least
    config = config_of(family, **({"n_head": 2} if family == "gpt2" else changes))
    if family == "gpt_neox":
        del config["num_key_value_heads"], config["head_dim"]
    arrays = arrays_of(config)
    file = open_checkpoint(str(write_gguf(tmp_path / "x.gguf", config, arrays, text)))
    folder = tmp_path / "folder"
    shutil.copytree(file.path, folder)
    tiny.write_weights(folder, {name: file.weights().read(name) for name in arrays})
    ours = export(file, tmp_path / "file", verify=False)
    theirs = export(open_checkpoint(str(folder)), tmp_path / "other", verify=False)
    names = ("onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json")
    assert [(ours.path / name).read_bytes() for name in names] == [
        (theirs.path / name).read_bytes() for name in names
    ]
