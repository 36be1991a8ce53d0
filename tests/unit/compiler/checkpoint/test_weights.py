"""Weights of a folder: which file is read, what a read costs, and what a damaged one says."""

import json
import struct
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lmonnx.compiler.checkpoint.weights import open_weights
from lmonnx.errors import StageError
from tests import torch_files

pytestmark = pytest.mark.compiler

ONES, TWOS = np.ones(3, np.float32), np.full(3, 2, np.float32)


def save_shards(folder: Path, places: dict[str, str], shards: dict[str, dict], form: str) -> None:
    for name, arrays in shards.items():
        if form == "model.safetensors":
            save_file(arrays, folder / name)
        else:
            torch_files.write_zip(folder / name, arrays)
    (folder / f"{form}.index.json").write_text(json.dumps({"weight_map": places}))


def save_raw(folder: Path, header: object, data: bytes = b"\0" * 64) -> None:
    spelled = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(spelled)) + spelled + data)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_type_is_read_as_float32_and_its_own_type_told(tmp_path, dtype):
    array = np.linspace(-2, 2, 12).reshape(3, 4).astype(dtype)
    save_file({"w": array}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    assert (weights.dtype("w"), weights.shape("w")) == (array.dtype, (3, 4))
    assert weights.read("w").dtype == np.float32
    np.testing.assert_array_equal(weights.read("w"), array.astype(np.float32))


@pytest.mark.parametrize(
    "dtype", ["int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"]
)
def test_integers_and_booleans_are_read_as_stored(tmp_path, dtype):
    array = np.array([[0, 1], [1, 1]], dtype)
    arrays = {"w": array, "none": array[:0], "one": np.array(1, dtype)}
    save_file(arrays, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    assert weights.names() == set(weights) == set(arrays)
    for name, expected in arrays.items():
        found = weights.read(name)
        assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


def test_a_tensor_larger_than_a_chunk_is_read_whole(tmp_path):
    array = np.arange(3_000_001, dtype=np.float32)  # 12 MB: three reads
    save_file({"first": ONES, "w": array}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(open_weights(tmp_path).read("w"), array)


def test_reading_every_tensor_holds_one_at_a_time(tmp_path):
    save_file(
        {name: np.zeros(2**22, np.float16) for name in "abcd"}, tmp_path / "model.safetensors"
    )  # 16 MiB each as float32
    tracemalloc.start()
    weights = open_weights(tmp_path)
    for name in weights:
        weights.read(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * 21


def test_safetensors_come_before_torch_and_one_file_before_shards(tmp_path):
    torch_files.write_zip(tmp_path / "pytorch_model.bin", {"w": ONES * 4})
    assert open_weights(tmp_path).read("w")[0] == 4
    save_shards(
        tmp_path, {"w": "a.safetensors"}, {"a.safetensors": {"w": ONES * 3}}, "model.safetensors"
    )
    assert open_weights(tmp_path).read("w")[0] == 3
    save_file({"w": TWOS}, tmp_path / "model.safetensors")
    assert open_weights(tmp_path).read("w")[0] == 2


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_shards_are_one_collection(tmp_path, form):
    save_shards(tmp_path, {"a": "1.x", "b": "2.x"}, {"1.x": {"a": ONES}, "2.x": {"b": TWOS}}, form)
    weights = open_weights(tmp_path)
    assert len(weights) == 2
    assert "a" in weights
    assert weights.read("b")[0] == 2


def test_shards_may_be_links_as_in_the_hub_cache(tmp_path):
    blob = tmp_path / "blob"
    save_file({"w": TWOS}, blob)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blob")
    assert open_weights(tmp_path / "snapshot").read("w")[0] == 2


def test_a_missing_shard_is_named(tmp_path):
    save_shards(tmp_path, {"a": "1.x", "b": "2.x"}, {"1.x": {"a": ONES}}, "model.safetensors")
    with pytest.raises(StageError, match=r"2\.x is missing"):
        open_weights(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    save_shards(tmp_path, {"lost": "1.x"}, {"1.x": {"a": ONES}}, "model.safetensors")
    with pytest.raises(StageError, match=r"puts 'lost' in 1\.x, which lacks it"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    "shard", ["../1.x", "/etc/passwd", "a/b", "a\\b", "C:x", "..", ".", "", "a\0", None, 3, ["1.x"]]
)
def test_an_index_names_files_of_its_folder_only(tmp_path, shard):
    save_shards(tmp_path, {"a": shard}, {}, "model.safetensors")
    with pytest.raises(StageError, match="which is no plain file name"):
        open_weights(tmp_path)


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', "{", "[" * 100_000])
def test_a_damaged_index_is_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(StageError, match=r"index\.json"):
        open_weights(tmp_path)


def test_a_missing_tensor_names_the_nearest(tmp_path):
    save_file({"encoder.layer.0.bias": ONES, "pooler": TWOS}, tmp_path / "model.safetensors")
    with pytest.raises(
        StageError, match=r"no tensor encoder\.layers\.0\.bias; the nearest are encoder\.layer\.0"
    ):
        open_weights(tmp_path).read("encoder.layers.0.bias")


def test_a_folder_without_weights_says_what_would_be_read(tmp_path):
    with pytest.raises(StageError, match=r"none of model\.safetensors, .*pytorch_model\.bin"):
        open_weights(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 8, 40, 100, -1])
def test_a_file_cut_short_says_to_download_it_again(tmp_path, size):
    path = tmp_path / "model.safetensors"
    save_file({"a": ONES, "b": TWOS}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StageError, match="download it again"):
        open_weights(tmp_path)


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path):
    save_file({"w": ONES}, tmp_path / "model.safetensors")
    weights = open_weights(tmp_path)
    save_raw(tmp_path, {}, b"")
    with pytest.raises(StageError, match="download it again"):
        weights.read("w")


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"not json", id="text"),
        pytest.param(b"[" * 50_000, id="nested"),
        pytest.param([1], id="list"),
        pytest.param({"w": None}, id="no entry"),
        pytest.param({"w": {"dtype": "F32"}}, id="half an entry"),
        pytest.param({"w": ENTRY | {"dtype": "F8_E4M3"}}, id="type not read"),
        pytest.param({"w": ENTRY | {"shape": [2, "2"]}}, id="text as a size"),
        pytest.param({"w": ENTRY | {"shape": [-2, -2]}}, id="negative sizes"),
        pytest.param({"w": ENTRY | {"shape": [2, 3]}}, id="larger than its bytes"),
        pytest.param({"w": ENTRY | {"shape": [2**62, 2**62]}}, id="absurd sizes"),
        pytest.param(
            {"w": ENTRY | {"shape": [0, 2**62], "data_offsets": [0, 0]}}, id="empty, absurd"
        ),
        pytest.param({"w": ENTRY | {"shape": [1] * 33}}, id="33 dimensions"),
        pytest.param({"w": ENTRY | {"data_offsets": [-16, 0]}}, id="before the data"),
        pytest.param({"w": ENTRY | {"data_offsets": [56, 72]}}, id="after the data"),
        pytest.param({"w": ENTRY | {"data_offsets": [16, 0]}}, id="backwards"),
        pytest.param({"w": ENTRY | {"data_offsets": [0, 16.0]}}, id="fraction"),
    ],
)
def test_a_damaged_header_is_one_line_of_ours(tmp_path, header):
    save_raw(tmp_path, header)
    with pytest.raises(StageError) as caught:
        open_weights(tmp_path)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_arrays_or_our_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "model.safetensors"
    save_file({"a": ONES, "b": TWOS.astype(np.float16)}, path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        weights = open_weights(path.parent)
        assert all(weights.read(name).shape == weights.shape(name) for name in weights)
    except StageError:
        pass
