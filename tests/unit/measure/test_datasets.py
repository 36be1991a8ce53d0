"""Labelled texts from files: columns, headers, encodings, and labels that a head knows."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmonnx.bundle.manifest import Activation, Head
from lmonnx.errors import InputError, UnsupportedError
from lmonnx.measure.datasets import Example, label_ids, read_examples, read_texts

SENTIMENT = Head(("NEGATIVE", "POSITIVE"), Activation.SOFTMAX)
TOPICS = Head(("sport", "film", "law, tax"), Activation.SIGMOID)
SCORE = Head(("score",), Activation.NONE)
TOXIC = Head(("toxic",), Activation.SIGMOID)

cells = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"))
any_cells = st.text(st.characters(codec="utf-8"))


def file(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def labelled(*labels: str) -> list[Example]:
    return [Example("text", label) for label in labels]


def test_indexes_mean_no_header_and_names_mean_one(tmp_path):
    path = file(tmp_path, "a.tsv", "sentence\tlabel\ngood\t1\n")
    assert read_examples(path) == [Example("sentence", "label"), Example("good", "1")]
    assert read_examples(path, text="sentence", label="label") == [Example("good", "1")]
    assert read_examples(path, text="sentence") == [Example("good", "1")]  # 1 is still an index
    assert read_examples(path, text="1", label="0")[1] == Example("1", "good")


def test_a_header_named_by_digits_is_found_by_name(tmp_path):
    path = file(tmp_path, "a.csv", "1,label,0\nx,y,z\n")
    assert read_examples(path, text="0", label="label") == [Example("z", "y")]


def test_tsv_knows_no_quotes_and_only_line_feeds_end_a_line(tmp_path):
    path = file(tmp_path, "a.tsv", '"a" said he\t1\r\n\u2028\x0b"\t0\n\n\t1')
    texts = [example.text for example in read_examples(path)]
    assert texts == ['"a" said he', '\u2028\x0b"', ""]


def test_csv_cells_may_hold_commas_quotes_and_lines(tmp_path):
    path = file(tmp_path, "a.csv", 'text,label\r\n"a ""b"", c\nd",1\r\n')
    assert read_examples(path, text="text", label="label") == [Example('a "b", c\nd', "1")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = file(tmp_path, "a.TSV", b"\xef\xbb\xbftext\tlabel\nx\t1\n")
    assert read_examples(path, text="text", label="label") == [Example("x", "1")]


def test_jsonl_has_keys_and_its_defaults_are_text_and_label(tmp_path):
    lines = [
        {"text": "a", "label": 1, "kind": "x", "second": "b"},
        {"text": "a\n\t", "label": ["x", "y"], "kind": 0.5, "second": ""},
        {"text": "", "label": 1.0, "kind": True, "second": "é"},
    ]
    path = file(tmp_path, "a.jsonl", "\n".join(json.dumps(line) for line in lines))
    assert [e.label for e in read_examples(path)] == ["1", "x|y", "1"]
    assert [e.label for e in read_examples(path, label="kind")] == ["x", "0.5", "1"]
    assert read_examples(path, text_pair="second")[2] == Example(("", "é"), "1")


def test_no_label_column_is_read_when_none_is_asked_for(tmp_path):
    assert read_examples(file(tmp_path, "a.tsv", "a\nb\n"), label=None) == labelled_texts("a", "b")
    assert read_examples(file(tmp_path, "a.jsonl", '{"text": "a"}'), label=None) == labelled_texts(
        "a"
    )


def labelled_texts(*texts: str) -> list[Example]:
    return [Example(text, "") for text in texts]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.tsv", "a\t1\nb\n", {}, r"a\.tsv, line 2: 1 columns, but line 1 has 2"),
        ("a.csv", 'a,1\n"x\ny",1\nb,1,2\n', {}, r"a\.csv, line 4: 3 columns"),
        ("a.tsv", "a\t1\n", {"text": "body"}, r"line 1: there is no column 'body'; .* a, 1"),
        ("a.tsv", "a\n", {}, r"line 1: there is no column 1, only 0 to 0; .*--label"),
        ("a.csv", "x,x\na,b\n", {"text": "x"}, r"two columns are 'x'"),
        ("a.tsv", b"a\t1\nb\xff\t1\n", {}, r"a\.tsv, line 2: not UTF-8"),
        ("a.tsv", "", {}, r"a\.tsv has no examples"),
        ("a.tsv", "text\tlabel\n", {"text": "text"}, r"has no examples"),
        ("a.csv", 'a,"1\n', {}, r"line 1: not CSV"),
        ("a.txt", "a\t1\n", {}, r"\.txt is no known kind of file, use \.tsv, \.csv, \.jsonl"),
        ("data", "a\t1\n", {}, r"no suffix is no known kind"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{\n', {}, r"line 2: not JSON"),
        ("a.jsonl", "[]", {}, r"line 1: not an object"),
        ("a.jsonl", '{"body": "a"}', {}, r"no key 'text', only body; .*--text"),
        ("a.jsonl", '{"text": null, "label": 1}', {}, r"line 1: 'text' is null"),
        ("a.jsonl", '{"text": "\\ud800", "label": 1}', {}, r"line 1: half a surrogate pair"),
        ("a.jsonl", "[" * 100_000, {}, r"line 1: not JSON"),
    ],
)
def test_an_error_names_file_and_line_and_the_way_out(tmp_path, name, content, options, message):
    with pytest.raises(InputError, match=message):
        read_examples(file(tmp_path, name, content), **options)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv cannot be read \(No such file"):
        read_examples(tmp_path / "none.tsv")


@given(st.lists(st.tuples(cells, cells), min_size=1))
def test_any_cells_come_back_from_tsv(tmp_path_factory, rows):
    content = "".join(f"{text}\t{label}\n" for text, label in rows)
    path = file(tmp_path_factory.mktemp("tsv"), "a.tsv", content)
    bom = content.startswith("\ufeff")  # of a text, here, but no reader could know
    expected = [Example(*row) for row in rows]
    assert read_examples(path)[bom:] == expected[bom:]


@given(st.lists(st.tuples(any_cells, any_cells), min_size=1))
def test_any_cells_come_back_from_csv_and_jsonl(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("files")
    written = io.StringIO(newline="")
    csv.writer(written).writerows([("text", "label"), *rows])
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    expected = [Example(*row) for row in rows]
    tables = file(folder, "a.csv", written.getvalue())
    assert read_examples(tables, text="text", label="label") == expected
    assert read_examples(file(folder, "a.jsonl", "\n".join(lines))) == expected


def test_texts_are_lines_and_an_empty_line_is_the_empty_text():
    lines = io.BytesIO(b"\xef\xbb\xbfa\r\n\n\xe2\x80\xa8 b\x0c\nc\r")
    assert list(read_texts(lines, "x")) == ["a", "", "\u2028 b\x0c", "c"]


def test_texts_that_are_not_utf8_are_named_by_line():
    with pytest.raises(InputError, match=r"standard input, line 2: not UTF-8"):
        list(read_texts(io.BytesIO(b"a\n\xff\n"), "standard input"))


def test_labels_are_names_then_names_of_any_case_then_indexes():
    given_labels = labelled("POSITIVE", "negative", "1", " 0 ")
    assert label_ids(given_labels, SENTIMENT).tolist() == [1, 0, 1, 0]
    odd = Head(("1", "a", "A"), Activation.SOFTMAX)
    assert label_ids(labelled("1", "0", "A", "a"), odd).tolist() == [0, 0, 2, 1]


@pytest.mark.parametrize("label", ["label", "2", "-1", "", "٣"])
def test_an_unknown_label_is_named_with_its_row_the_known_ones_and_the_header_hint(label):
    with pytest.raises(
        InputError, match=rf"row 2 has the label '{label}'.*NEGATIVE, POSITIVE.*hea"
    ):
        label_ids(labelled("1", label), SENTIMENT)


def test_labels_that_differ_only_in_case_must_be_exact():
    with pytest.raises(InputError, match="row 1"):
        label_ids(labelled("Aa"), Head(("aa", "AA"), Activation.SOFTMAX))


def test_a_cell_of_several_labels_is_split_and_may_be_empty():
    found = label_ids(labelled("sport,film", "0|law, tax", "", "law, tax", "FILM"), TOPICS)
    assert found.dtype == np.int64
    assert found.tolist() == [[1, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_a_regression_takes_finite_numbers():
    assert label_ids(labelled("1", "-0.5", " 1e3"), SCORE).tolist() == [1.0, -0.5, 1000.0]
    for label in ("good", "nan", "inf", ""):
        with pytest.raises(InputError, match=r"row 1 .* the model gives a number"):
            label_ids(labelled(label), SCORE)


def test_one_sigmoid_label_takes_yes_and_no_or_values():
    assert label_ids(labelled("1", "0", "toxic", ""), TOXIC).tolist() == [[1], [0], [1], [0]]
    assert label_ids(labelled("1", "0.5"), TOXIC).tolist() == [1.0, 0.5]


def test_a_regression_to_several_values_is_not_supported():
    with pytest.raises(UnsupportedError, match="2 values"):
        label_ids(labelled("1"), Head(("x", "y"), Activation.NONE))


def test_of_many_labels_ten_are_shown():
    many = Head(tuple(f"L{i}" for i in range(25)), Activation.SOFTMAX)
    with pytest.raises(InputError, match="L9 and 15 more"):
        label_ids(labelled("x"), many)


def test_a_name_that_is_a_number_is_never_another_ones_index():
    stars = Head(("1", "2", "3"), Activation.SOFTMAX)
    assert label_ids(labelled("3", "1"), stars).tolist() == [2, 0]
    with pytest.raises(InputError, match="row 2 has the label '0', the model has 1, 2, 3; if"):
        label_ids(labelled("1", "0"), stars)  # counted from 0, "1" would be wrong too


@pytest.mark.parametrize("cell", ["0|1|0", "sport|0", "film,FILM"])
def test_a_label_that_comes_twice_is_refused_as_a_yes_or_no_for_each_would_be(cell):
    with pytest.raises(InputError, match=r"row 2 has a label twice .* each once"):
        label_ids(labelled("sport", cell), TOPICS)
