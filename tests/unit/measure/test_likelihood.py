"""Files of text that are read whole: as they are, or refused in one message."""

from pathlib import Path

import pytest

from lmonnx import InputError
from lmonnx.measure.likelihood import read_text


def test_text_is_read_as_it_is(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("ä\r\nb\n".encode())
    assert read_text(path) == "ä\r\nb\n"
    path.write_bytes("\ufeffä".encode())
    assert read_text(path) == "ä"


def test_a_file_of_the_limit_is_read_and_one_byte_more_refused(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"x" * 2**20)
    assert len(read_text(path, most_mib=1)) == 2**20
    path.write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(InputError, match="larger than 1 MiB; give a smaller file"):
        read_text(path, most_mib=1)


def test_what_is_no_utf8_is_refused_with_its_place(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"ab\xff")
    with pytest.raises(InputError, match="no UTF-8 text \\(at byte 2\\)"):
        read_text(path)


@pytest.mark.parametrize("name", ["nowhere", ".", "null\0byte"])
def test_what_cannot_be_opened_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"cannot be read .*; check the path"):
        read_text(tmp_path / name)


def test_a_name_that_is_no_name_is_not_repeated_whole():
    with pytest.raises(InputError, match="cannot be read") as refused:
        read_text(Path("long" * 999))
    assert len(str(refused.value)) < 300
