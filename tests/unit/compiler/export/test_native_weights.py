"""Tensors that are missing, of another shape, type or name: read as they are meant, or refused."""

import json
import re

import ml_dtypes
import numpy as np
import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.errors import StageError
from lmonnx.measure.parity import measure_parity, read_golden
from tests import tiny
from tests.tiny_decoders import write_gpt2, write_llama
from tests.tiny_seq2seq import write_marian, write_t5
from tests.unit.compiler.export.test_native import GOLDEN, QUERY, exported, refused

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_missing_tensor_is_named(tmp_path, family):
    name = QUERY[family]
    refused(tmp_path, StageError, f"no tensor {name}", family, edit=lambda a: a.pop(name))


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_tensor_of_another_shape_is_named(tmp_path, family):
    def transpose(arrays: tiny.Arrays) -> None:
        arrays[QUERY[family]] = np.zeros((16, 64), np.float32)

    said = rf"{QUERY[family]} has the shape \(16, 64\), config.json asks for \(32, 32\)"
    refused(tmp_path, StageError, said, family, edit=transpose)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, value, dtype):
    def spoil(arrays: tiny.Arrays) -> None:
        arrays[QUERY["bert"]][3, 3] = value

    refused(tmp_path, StageError, "query.weight holds NaN or infinity", dtype=dtype, edit=spoil)


@pytest.mark.parametrize("family", tiny.WRITERS)
def test_a_layer_that_config_json_does_not_count_is_named(tmp_path, family):
    later = re.sub(r"\.\d+\.", ".7.", QUERY[family], count=1)

    def add(arrays: tiny.Arrays) -> None:
        arrays[later] = arrays[QUERY[family]]

    said = f"{later} belong to layers that config.json does not count"
    refused(tmp_path, StageError, said, family, edit=add)


@pytest.mark.parametrize(
    ("write", "fewer"),
    [
        (write_llama, {"num_hidden_layers": 1}),
        (write_gpt2, {"n_layer": 1}),
        (write_marian, {"encoder_layers": 1}),
        (write_marian, {"decoder_layers": 1}),
        (write_t5, {"num_decoder_layers": 1}),
    ],
)
def test_a_config_of_fewer_layers_than_the_weights_is_refused(tmp_path, write, fewer):
    source = write(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, **fewer}))
    with pytest.raises(StageError, match=r"\.1\..* and \d+ more tensors belong to layers"):
        export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["lm_head.weight", "encoder.block.0.unused", "x.9.y", "9"])
def test_other_tensors_may_be_left_over(tmp_path, name):
    def add(arrays: tiny.Arrays) -> None:
        arrays[name] = np.zeros(3, np.float32)

    exported(tmp_path, "bert", edit=add)


def rename(arrays: tiny.Arrays, change) -> None:
    for name in list(arrays):
        arrays[change(name)] = arrays.pop(name)


def old_names(name: str) -> str:
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


def bare_names(name: str) -> str:
    return name.removeprefix("bert.")


@pytest.mark.parametrize(
    "change",
    [old_names, bare_names, lambda name: old_names(bare_names(name))],
    ids=["gamma and beta", "without the prefix", "both"],
)
def test_older_names_of_the_same_tensors_are_read(tmp_path, change):
    model = exported(tmp_path, edit=lambda arrays: rename(arrays, change))
    assert measure_parity(model, read_golden(GOLDEN / "tiny-bert.json")).relative < 1e-5


def test_tensors_that_nobody_asks_for_are_left_out(tmp_path):
    def add(arrays: tiny.Arrays) -> None:
        arrays["bert.embeddings.position_ids"] = np.arange(64)[None]
        arrays["cls.predictions.bias"] = np.full(9, np.nan, np.float32)

    model = exported(tmp_path, edit=add)
    assert measure_parity(model, read_golden(GOLDEN / "tiny-bert.json")).relative < 1e-5


def test_a_pickle_that_calls_something_else_is_refused_and_not_run(tmp_path):
    source = tiny.write_bert(tmp_path / "tiny-bert")
    (source / "model.safetensors").unlink()
    from tests import torch_files

    flag = tmp_path / "ran"
    call = b"cos\nsystem\n(" + torch_files.text(f"touch {flag}") + b"tR."
    torch_files.write_zip(source / "pytorch_model.bin", {}, body=call)
    with pytest.raises(StageError):
        export(open_checkpoint(str(source)), tmp_path / "bundle")
    assert not flag.exists()
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_without_weights_is_refused(tmp_path):
    source = tiny.write_bert(tmp_path / "tiny-bert")
    (source / "model.safetensors").unlink()
    with pytest.raises(StageError, match=r"has none of model\.safetensors"):
        export(open_checkpoint(str(source)), tmp_path / "bundle")


def test_float64_weights_are_read_as_float32(tmp_path):
    def widen(arrays: tiny.Arrays) -> None:
        arrays.update({name: array.astype(np.float64) for name, array in arrays.items()})

    model = exported(tmp_path, edit=widen)
    assert measure_parity(model, read_golden(GOLDEN / "tiny-bert.json")).relative < 1e-5


def test_weights_of_mixed_types_are_read(tmp_path):
    def mix(arrays: tiny.Arrays) -> None:
        for index, name in enumerate(arrays):
            arrays[name] = arrays[name].astype((np.float16, ml_dtypes.bfloat16)[index % 2])

    model = exported(tmp_path, edit=mix)
    assert measure_parity(model, read_golden(GOLDEN / "tiny-bert.json")).relative < 1e-5
