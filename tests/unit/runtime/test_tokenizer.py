"""Text → windows of ids: no token is lost, and cutting is the tokenizers library's own."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers
from tokenizers.processors import RobertaProcessing, TemplateProcessing

from lmonnx.bundle.manifest import Side, TextSpec, TokenizerSpec
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.tokenizer import Long, Tokenizer
from tests.texts import NASTY

PIECES = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
words = st.lists(st.sampled_from("abcde"), max_size=40).map(" ".join)
long_words = st.lists(st.sampled_from("abcde"), min_size=30, max_size=120).map(" ".join)
pairs = st.tuples(words, words)


def template() -> Library:
    """Return a tokenizer of words with BERT's template."""
    vocabulary = {token: i for i, token in enumerate(("[U]", "[C]", "[S]", *"abcde"))}
    library = Library(models.WordLevel(vocabulary, unk_token="[U]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = TemplateProcessing(
        single="[C]:0 $A:0 [S]:0",
        pair="[C]:0 $A:0 [S]:0 $B:1 [S]:1",
        special_tokens=[("[C]", 1), ("[S]", 2)],
    )
    return library


def byte_level() -> Library:
    """Return a tokenizer of bytes with RoBERTa's template, two tokens between a pair."""
    library = Library(models.BPE({piece: i for i, piece in enumerate(PIECES)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    return library


def bare() -> Library:
    """Return a tokenizer that adds no special tokens."""
    library = template()
    library.post_processor = None
    return library


LIBRARIES = {"template": template, "byte level": byte_level, "bare": bare}


@pytest.fixture(scope="module", params=LIBRARIES)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in LIBRARIES.items():
        make().save(str(folder / f"{name}.json"))
    return {name: folder / f"{name}.json" for name in LIBRARIES}


def ours(path: Path, length: int, side: str = "right") -> Tokenizer:
    source = TokenizerSpec(path.name, 0, truncation_side=Side(side))
    return Tokenizer(path, TextSpec(source, length))


def text_tokens(library: Library, ids: list[int]) -> list[int]:
    special = {library.token_to_id(t) for t in ("[C]", "[S]", "<s>", "</s>")}
    return [i for i in ids if i not in special]


@pytest.mark.parametrize("side", ["right", "left"])
@given(item=words | pairs, length=st.integers(6, 40))
def test_truncation_is_the_librarys_longest_first(kind, files, side, item, length):
    library = Library.from_file(str(files[kind]))
    library.enable_truncation(length, strategy="longest_first", direction=side)
    theirs = library.encode(*item) if isinstance(item, tuple) else library.encode(item)
    (found,) = ours(files[kind], length, side).encode([item], Long.TRUNCATE)
    assert found.ids == theirs.ids
    assert found.type_ids == theirs.type_ids


@given(item=words | long_words, length=st.integers(6, 40))
def test_windows_show_every_token_of_a_text_in_order(kind, files, item, length):
    library = Library.from_file(str(files[kind]))
    whole = text_tokens(library, library.encode(item).ids)
    found = ours(files[kind], length).encode([item])
    shown: list[int] = []
    for window in found:
        assert len(window.ids) == len(window.type_ids) <= length
        part = text_tokens(library, window.ids)
        overlap = (length - (len(window.ids) - len(part))) // 8 if shown else 0
        shown += part[overlap:]
    assert shown == whole


@given(first=words, second=long_words, length=st.integers(8, 40), swap=st.booleans())
def test_windows_of_a_pair_show_all_of_the_longer_and_some_of_the_other(
    kind, files, first, second, length, swap
):
    library = Library.from_file(str(files[kind]))
    pair = (second, first) if swap else (first, second)
    tokenizer = ours(files[kind], length)
    parts = [library.encode(text, add_special_tokens=False).ids for text in pair]
    found = tokenizer.encode([pair])
    assert all(len(window.ids) <= length for window in found)
    for place, part in enumerate(parts):
        if part and len(part) == max(map(len, parts)):
            assert max(parts, key=len)[-1] in found[-1].ids
        elif part:
            shown = part[: max(1, (length - library.num_special_tokens_to_add(True)) // 2)]
            spelled = " ".join(map(str, shown))
            assert all(spelled in " ".join(map(str, w.ids)) for w in found), place


@given(items=st.lists(words | pairs, max_size=8))
def test_a_text_that_fits_is_one_window_as_the_library_encodes_it(kind, files, items):
    library = Library.from_file(str(files[kind]))
    found = ours(files[kind], 1000).encode(items)
    assert [window.row for window in found] == list(range(len(items)))
    assert [window.ids for window in found] == [e.ids for e in library.encode_batch(items)]
    assert [window.type_ids for window in found] == [
        e.type_ids for e in library.encode_batch(items)
    ]


def test_windows_keep_the_row_of_their_text(files):
    found = ours(files["template"], 6).encode(["a", "a b c d e a b c", "b"], first=10)
    assert [window.row for window in found] == [10, 11, 11, 12]


def test_padding_and_truncation_of_the_file_are_not_taken_over(tmp_path):
    library = template()
    library.enable_padding(length=64)
    library.enable_truncation(3)
    library.save(str(tmp_path / "t.json"))
    assert ours(tmp_path / "t.json", 10).encode(["a b c d"])[0].ids == [1, 3, 4, 5, 6, 2]


def test_long_text_may_be_an_error_that_says_which_and_how_long(files):
    tokenizer = ours(files["template"], 6)
    assert len(tokenizer.encode(["a b c d"], Long.ERROR)) == 1
    with pytest.raises(InputError, match="text 1 has 7 tokens, the model takes 6"):
        tokenizer.encode(["a", "a b c d e"], Long.ERROR)


@pytest.mark.parametrize("method", ["encode", "count"])
@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("ab\ud800", "text 1 is not valid Unicode at character 2"),
        (("a", "\udfff"), "text 1 is not valid Unicode at character 0"),
        (None, "text 1 is NoneType, must be str"),
        (5, "text 1 is int, must be str"),
        (b"a", "text 1 is bytes, must be str"),
        (("a", 5), "text 1 is int, must be str"),
    ],
)
def test_what_is_no_text_is_named_by_its_place(files, method, item, said):
    with pytest.raises(InputError, match=said):
        getattr(ours(files["template"], 6), method)(["a", item])


def test_tokens_are_counted_with_the_special_ones(files):
    assert ours(files["template"], 6).count(["a b", ("a", "b"), ""]) == 4 + 5 + 2


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_is_encoded_within_the_models_length(tiny_model, text):
    found = tiny_model.tokenizer.encode([text, (text, text), ("", text)])
    assert all(2 <= len(window.ids) <= 64 for window in found)


@pytest.mark.parametrize(
    "item", ["a " * 50_000, "." * 100_000, "a" * 100_000, ("." * 100_000, ". " * 50_000)]
)
def test_a_hundred_thousand_characters_take_a_moment(tiny_model, item):
    start = time.perf_counter()
    tiny_model.tokenizer.encode([item])
    tiny_model.tokenizer.encode([item], Long.TRUNCATE)
    assert time.perf_counter() - start < 5  # a pair once took minutes and all memory


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": {}}', "\0"])
def test_a_file_that_is_no_tokenizer_is_the_bundles_fault(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(BundleError, match="is not a tokenizer"):
        ours(tmp_path / "t.json", 10)


def test_a_vocabulary_without_the_unknown_token_is_the_bundles_fault(files, tmp_path):
    stored = json.loads(files["template"].read_text())
    stored["model"]["unk_token"] = "[LOST]"
    (tmp_path / "t.json").write_text(json.dumps(stored))
    with pytest.raises(BundleError, match="is at fault"):
        ours(tmp_path / "t.json", 10).encode(["zzz"])


@pytest.mark.parametrize("length", [-1, 0, 3, 4])
def test_a_length_without_room_for_a_pair_is_the_bundles_fault(files, length):
    with pytest.raises(BundleError, match=f"max_length {length} leaves no room"):
        ours(files["template"], length)
    ours(files["template"], 5)
