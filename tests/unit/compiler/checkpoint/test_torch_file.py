"""pytorch_model.bin: what is read, and that a hostile one ends in one line and no call."""

import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmonnx.compiler.checkpoint.torch_file import torch_tensors
from lmonnx.errors import StageError
from tests import torch_files as files

pytestmark = pytest.mark.compiler

WRITERS = pytest.mark.parametrize("write", [files.write_zip, files.write_stream])
BASE = np.arange(24, dtype=np.float32)
FLOAT4 = files.storage("0", "FloatStorage", 24)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pytorch_model.bin"


def state(value: bytes) -> bytes:
    return files.dict_of({"w": value})


def open_body(path: Path, body: bytes):
    return torch_tensors(files.write_zip(path, {"w": BASE}, body=body))


@WRITERS
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_float_type_is_read_as_float32(path, write, dtype):
    array = np.linspace(-2, 2, 12).reshape(3, 4).astype(dtype)
    found = torch_tensors(write(path, {"w": array}))["w"].read()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array.astype(np.float32))


@WRITERS
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_])
def test_integers_and_booleans_are_read_as_stored(path, write, dtype):
    array = np.array([0, 1, 5], dtype)
    found = torch_tensors(write(path, {"w": array}))["w"].read()
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@WRITERS
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(BASE[3:9], id="slice"),
        pytest.param(BASE.reshape(4, 6).T, id="transposed"),
        pytest.param(BASE[1::5], id="every fifth"),
        pytest.param(BASE[7:8].reshape(()), id="scalar"),
        pytest.param(BASE[:0].reshape(0, 3), id="empty"),
        pytest.param(np.broadcast_to(BASE[:6], (2, 6)), id="expanded"),
        pytest.param(BASE.reshape(2, 3, 4)[:, 1:, ::2], id="three dimensions"),
    ],
)
def test_a_view_of_a_shared_storage_is_read_as_the_view(path, write, view):
    found = torch_tensors(write(path, {"whole": BASE, "w": view}))
    np.testing.assert_array_equal(found["w"].read(), view)
    np.testing.assert_array_equal(found["whole"].read(), BASE)


def test_a_compressed_zip_is_read_too(path):
    files.write_zip(path, {"a": BASE, "w": BASE[5:9]}, compression=zipfile.ZIP_DEFLATED)
    np.testing.assert_array_equal(torch_tensors(path)["w"].read(), BASE[5:9])


@pytest.mark.parametrize("protocol_4", [False, True])
def test_a_state_dict_inside_a_training_checkpoint_is_found(path, protocol_4):
    inner = state(files.tensor(FLOAT4, (24,), (1,)))
    extra = files.global_("torch", "float16")
    if protocol_4:
        extra = b"\x8c\x05torch\x94\x8c\x07float16\x94\x93"
    body = files.dict_of({"state_dict": inner, "epoch": files.number(3), "dtype": extra})
    np.testing.assert_array_equal(open_body(path, body)["w"].read(), BASE)


def test_a_parameter_and_an_ordered_dict_with_metadata_are_read(path):
    parameter = files.global_("torch._utils", "_rebuild_parameter") + files.tuple_of(
        files.tensor(FLOAT4, (24,), (1,)), b"\x88", files.ORDERED_DICT
    )
    body = files.ORDERED_DICT + b"(" + files.text("w") + parameter + b"Ru"
    body += files.dict_of({"_metadata": files.ORDERED_DICT}) + b"b"
    assert torch_tensors(files.write_zip(path, {"w": BASE}, body=body))["w"].shape == (24,)


@WRITERS
def test_opening_reads_no_storage_and_reading_holds_one_tensor(path, write):
    write(path, {name: np.zeros(2**21, np.float32) for name in "abcd"})  # 8 MiB each
    tracemalloc.start()
    tensors = torch_tensors(path)
    tracemalloc.reset_peak()
    for tensor in tensors.values():
        tensor.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * 13


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy.core.multiarray", "_reconstruct"),
    ],
)
def test_a_global_that_weights_have_no_reason_for_is_named_and_not_called(path, module, name):
    mark = path.with_name("called")
    call = files.global_(module, name) + files.tuple_of(files.text(f"touch {mark}")) + b"R"
    with pytest.raises(StageError, match=f"names '{module}.{name}', which a weights file has no"):
        open_body(path, state(call))
    assert not mark.exists()


NESTED = b")" + b"\x85" * 500_000  # to hash this is to overflow the C stack
HOSTILE = {
    "calls a dtype": files.global_("torch", "FloatStorage") + b")R",
    "calls a text": files.text("os.system") + b")R",
    "calls with no tuple": files.global_("collections", "OrderedDict") + b"]R",
    "sets a tensor's state": files.tensor(FLOAT4, (2,), (1,)) + b"}b",
    "sets a function's state": files.global_("torch", "Size") + b"}b",
    "extension registry": b"\x82\x01",
    "instance": b"(ios\nsystem\n",
    "object": b"(" + files.global_("torch", "Size") + b"o",
    "new object": files.global_("torch", "Size") + b")\x81",
    "old persistent id": b"P0\n",
    "persistent text": files.text("0") + b"Q",
    "persistent module": files.tuple_of(files.text("module"), b"N", b"N", b"N") + b"Q",
    "persistent tuple of tuples": NESTED + b"Q",
    "storage without a type": files.tuple_of(files.text("storage"), b"N", b"N", b"N", b"N") + b"Q",
    "storage view": files.storage("0", "FloatStorage", 24, files.tuple_of(files.text("0"))),
    "nested tuple as a key": b"}" + NESTED + b"Ns",
    "tensor as a key": b"}" + files.tensor(FLOAT4, (2,), (1,)) + b"Ns",
    "appends to a tuple": b")Na",
    "items for a list": b"](" + files.text("k") + b"Nu",
    "odd items": b"}(" + files.text("k") + b"u",
    "empty stack": b"0" * 3,
    "takes too many": b"R" * 3,
    "no mark": b"t" * 3,
    "unset memo": b"h\x07",
    "unknown instruction": b"\xff",
    "cut short": b"X\xff\xff\xff\x7fabc",
    "bytes of any length": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "bytearray of any length": b"\x96" + b"\xff" * 7 + b"\x7f",
    "stack global of numbers": b"K\x01K\x01\x93",
    "global with a backslash": b"cos\nsys\\tem\n",
    "global of a line": b"cos\nsys\ntem\n",
    "no storage of that key": files.tensor(files.storage("7"), (2,), (1,)),
    "key with a path": files.tensor(files.storage("../data.pkl"), (2,), (1,)),
    "no arguments": files.global_("torch._utils", "_rebuild_tensor_v2") + b")R",
    "shape is no tuple": files.global_("torch._utils", "_rebuild_tensor_v2")
    + files.tuple_of(FLOAT4, files.number(0), b"]", b"]")
    + b"R",
    "fewer strides": files.tensor(FLOAT4, (2, 3), (1,)),
    "beyond the end": files.tensor(FLOAT4, (25,), (1,)),
    "offset beyond": files.tensor(FLOAT4, (5,), (1,), 20),
    "stride beyond": files.tensor(FLOAT4, (3,), (12,)),
    "negative offset": files.tensor(FLOAT4, (2,), (1,), -4),
    "negative stride": files.tensor(FLOAT4, (2,), (-1,)),
    "negative size": files.tensor(FLOAT4, (-2,), (1,)),
    "size of 2**64": files.tensor(FLOAT4, (2**64,), (0,)),
    "expanded to terabytes": files.tensor(FLOAT4, (10**6, 10**6), (0, 0)),
    "huge but empty": files.tensor(FLOAT4, (0, 2**62, 2**62), (1, 1, 1)),
    "40 dimensions": files.tensor(FLOAT4, (1,) * 40, (1,) * 40),
    "conjugate view": files.tensor(FLOAT4, (2,), (1,), 0, files.dict_of({"conj": b"\x88"})),
    "parameter of a number": files.global_("torch._utils", "_rebuild_parameter") + b"K\x01\x85R",
    "dict of a number": files.global_("collections", "OrderedDict") + b"K\x01\x85R",
    "dict of odd pairs": files.global_("collections", "OrderedDict") + b"]]a\x85R",
    "size of text": files.global_("torch", "Size") + files.text("a") + b"\x85R",
    "nothing": b"N",
}


@WRITERS
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_one_line_of_ours(path, write, value):
    with pytest.raises(StageError) as caught:
        torch_tensors(write(path, {"w": BASE}, body=state(value)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"}q\x00" + files.text("state_dict") + b"h\x00s", id="holds itself"),
        pytest.param(b"]", id="a list"),
        pytest.param(b"}", id="empty"),
        pytest.param(b"}" * 5_000_000, id="millions of instructions"),
    ],
)
def test_a_file_without_named_tensors_is_refused(path, body):
    with pytest.raises(StageError):
        open_body(path, body)


@WRITERS
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_refused(path, write, share):
    data = write(path, {"w": np.zeros(2000, np.float32)}).read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(StageError, match="download"):
        torch_tensors(path)


def test_a_git_lfs_pointer_is_refused_as_what_it_is(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(StageError, match="Git LFS pointer"):
        torch_tensors(path)


def test_big_endian_files_are_refused(path):
    with pytest.raises(StageError, match="big-endian"):
        torch_tensors(files.write_zip(path, {"w": BASE}, order=b"big"))
    with pytest.raises(StageError, match="big-endian"):
        torch_tensors(files.write_stream(path, {"w": BASE}, little=False))


def test_a_zip_bomb_is_refused_unread(path):
    files.write_zip(path, {"w": np.zeros(10**6, np.float32)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(StageError, match="far more than the file"):
        torch_tensors(path)


@WRITERS
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_arrays_or_our_error(tmp_path_factory, write, data):
    path = write(tmp_path_factory.mktemp("damaged") / "model.bin", {"a": BASE, "w": BASE[2:7]})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        for tensor in torch_tensors(path).values():
            assert tensor.read().shape == tensor.shape
    except StageError:
        pass
