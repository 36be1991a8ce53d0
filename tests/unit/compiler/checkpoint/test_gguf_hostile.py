"""GGUF files made to do harm: each is refused in one line, before anything large is allocated."""

import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.checkpoint.gguf_header import read_header
from lmonnx.compiler.checkpoint.gguf_tensor import open_tensors
from lmonnx.errors import LmonnxError, StageError
from tests import tiny_text
from tests.gguf_files import byte_level_text, read_json, write_gguf
from tests.gguf_models import VOCABULARY, arrays_of, config_of
from tests.gguf_raw import raw_file, raw_key, raw_tensor, string

pytestmark = pytest.mark.compiler

F32, Q4_0, UINT32, STRING, ARRAY = 0, 2, 4, 8, 9
HUGE = 2**63
ONE = raw_tensor("w", (8,), F32, 0)
DATA = b"\0" * 32


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + items


HEADERS = {
    "nothing": (b"", "the magic"),
    "other file": (b"PK\x03\x04" * 9, "not a GGUF file"),
    "version 1": (raw_file([], [], version=1), "version 1, and 2 and 3 are read"),
    "version 4": (raw_file([], [], version=4), "version 4"),
    "big-endian": (raw_file([], [], version=3 << 24), "big-endian"),
    "no counts": (b"GGUF\x03\0\0\0", "number of tensors"),
    "huge tensor count": (raw_file([], [], counts=(HUGE, 0)), "tensors and 0 keys"),
    "huge key count": (raw_file([], [], counts=(0, HUGE)), "0 tensors and 92"),
    "more keys than there are": (raw_file([], [], counts=(0, 9)), "cut short"),
    "long key": (raw_file([struct.pack("<Q", HUGE) + b"k"], []), "a key should take 92"),
    "empty key": (raw_file([raw_key("", UINT32, b"\0" * 4)], []), "a key is ''"),
    "key with NUL": (raw_file([raw_key("a\0b", UINT32, b"\0" * 4)], []), "a key is 'a"),
    "key twice": (raw_file([raw_key("k", UINT32, b"\0" * 4)] * 2, []), "'k' is there twice"),
    "key not UTF-8": (raw_file([raw_key(b"\xff", UINT32, b"\0" * 4)], []), "not UTF-8"),
    "unknown kind": (raw_file([raw_key("k", 13, b"\0" * 4)], []), "type 13"),
    "long string": (raw_file([raw_key("k", STRING, struct.pack("<Q", HUGE))], []), "take 92"),
    "text not UTF-8": (raw_file([raw_key("k", STRING, string(b"\xed\xa0\x80"))], []), "not UTF-8"),
    "huge array": (raw_file([raw_key("k", ARRAY, array(UINT32, 10**9))], []), "4000000000 bytes"),
    "huge array of strings": (raw_file([raw_key("k", ARRAY, array(STRING, 10**9))], []), "8000000"),
    "array of 2^63": (raw_file([raw_key("k", ARRAY, array(UINT32, HUGE))], []), "bytes, where"),
    "array of arrays": (raw_file([raw_key("k", ARRAY, array(ARRAY, 1))], []), "elements of type 9"),
    "no alignment": (raw_file([raw_key("general.alignment", UINT32, b"\0" * 4)], []), "power of"),
    "odd alignment": (raw_file([raw_key("general.alignment", UINT32, b"\3\0\0\0")], []), "power"),
    "alignment in words": (
        raw_file([raw_key("general.alignment", STRING, string("32"))], []),
        "power of two",
    ),
    "tensor twice": (raw_file([], [ONE, ONE], DATA), "'w' is there twice"),
    "name with NUL": (raw_file([], [raw_tensor("w\0x", (8,), F32, 0)], DATA), "tensor's name is"),
    "long name": (raw_file([], [raw_tensor("w" * 129, (8,), F32, 0)], DATA), "tensor's name is"),
    "no dimension": (raw_file([], [raw_tensor("w", (), F32, 0)], DATA), "has 0 dimensions"),
    "empty": (raw_file([], [raw_tensor("w", (0, 8), F32, 0)], DATA), "'w' is empty"),
    "many dimensions": (raw_file([], [raw_tensor("w", (1,) * 5, F32, 0)], DATA), "5 dimensions"),
    "offset outside": (raw_file([], [raw_tensor("w", (8,), F32, 1 << 40)], DATA), "begin at byte"),
    "offset of 2^64": (raw_file([], [raw_tensor("w", (8,), F32, 2**64 - 32)], DATA), "begin at"),
    "offset between": (raw_file([], [raw_tensor("w", (4,), F32, 4)], DATA), "begin at byte"),
    "unknown type": (raw_file([], [raw_tensor("w", (32,), 99, 0)], DATA), "tensors of type 99"),
    "removed type": (raw_file([], [raw_tensor("w", (32,), 4, 0)], DATA), "tensors of type 4"),
    "cut short": (raw_file([], [raw_tensor("w", (9,), F32, 0)], DATA), "cut short or damaged"),
    "blocks cut short": (raw_file([], [raw_tensor("w", (64,), Q4_0, 0)], DATA), "cut short"),
    "part of a block": (raw_file([], [raw_tensor("w", (33,), Q4_0, 0)], DATA), "whole blocks"),
    "huge shape": (raw_file([], [raw_tensor("w", (HUGE, HUGE), F32, 0)], DATA), "no weight has"),
    "huge blocks": (raw_file([], [raw_tensor("w", (32, HUGE), Q4_0, 0)], DATA), "whole blocks"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "match"), HEADERS.values(), ids=HEADERS)
def test_a_damaged_header_is_refused_in_one_line_and_little_memory(tmp_path, data, match):
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(StageError, match=match) as caught:
        open_tensors(read_header(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
    assert "\0" not in str(caught.value)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Give a good file's bytes."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_text.write_byte_bpe(folder, "json")
    text = byte_level_text(read_json(folder / "tokenizer.json"), "gpt-2", VOCABULARY, bos=0, eos=2)
    config = config_of("llama", num_hidden_layers=1)
    return write_gguf(folder / "tiny.gguf", config, arrays_of(config), text).read_bytes()


def opened(path, data):
    """Open a file and read it all, or say why not."""
    path.write_bytes(data)
    try:
        weights = open_checkpoint(str(path)).weights()
        return {name: weights.read(name).shape for name in weights}
    except LmonnxError as error:
        return str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path, tiny, share):
    assert isinstance(opened(tmp_path / "x.gguf", tiny[: int(share * len(tiny))]), str)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 12_000), bits=st.integers(1, 255))
def test_a_byte_changed_in_the_header_is_an_error_of_ours_or_another_model(
    tmp_path, tiny, place, bits
):
    changed = bytearray(tiny)
    changed[place] ^= bits
    assert isinstance(opened(tmp_path / "x.gguf", bytes(changed)), str | dict)


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path, tiny):
    path = tmp_path / "x.gguf"
    path.write_bytes(tiny)
    weights = open_checkpoint(str(path)).weights()
    path.write_bytes(tiny[: len(tiny) // 2])
    with pytest.raises(StageError, match="download it again"):
        weights.read("model.norm.weight")


def test_blocks_whose_scales_are_no_numbers_are_read_without_a_warning(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_file([], [raw_tensor("w", (32,), Q4_0, 0)], b"\xff" * 18))
    assert open_tensors(read_header(path))["w"].read().shape == (32,)
