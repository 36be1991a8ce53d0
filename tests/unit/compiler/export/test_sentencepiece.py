"""SentencePiece models → tokenizer.json: the ids of transformers' fast tokenizers, or one line."""

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import lmonnx
from lmonnx.bundle.draft import Draft
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.sentencepiece_model import Algorithm, PieceType, read_model
from lmonnx.compiler.export.text import export_text
from lmonnx.errors import LmonnxError, StageError, UnsupportedError
from tests import tiny

pytestmark = pytest.mark.compiler

GOLDEN = Path(__file__).parents[3] / "golden"
STORED = json.loads((GOLDEN / "sentencepiece.json").read_text())
CASES = {case["case"]: case for case in STORED["cases"]}
MODEL = {
    name: (GOLDEN / "sentencepiece" / f"{name}.model").read_bytes() for name in ("unigram", "bpe")
}
FILES = {
    "xlm-roberta": "sentencepiece.bpe.model",
    "camembert": "sentencepiece.bpe.model",
    "albert": "spiece.model",
    "deberta-v2": "spm.model",
}


def library_of(folder: Path, architecture="xlm-roberta", model=MODEL["unigram"], **settings):
    from tokenizers import Tokenizer

    for name in ("source", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tiny.write_json(folder / "source" / "config.json", {"model_type": architecture})
    tiny.write_json(folder / "source" / "tokenizer_config.json", settings)
    (folder / "source" / FILES[architecture]).write_bytes(model)
    export_text(open_checkpoint(str(folder / "source")), Draft(folder / "out"), positions=64)
    return Tokenizer.from_file(str(folder / "out" / "tokenizer.json"))


def refused(folder: Path, said: str, error: type[LmonnxError] = StageError, **given) -> None:
    with pytest.raises(error, match=said) as caught:
        library_of(folder, **given)
    assert "\n" not in str(caught.value)


# Ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_model_alone_gives_the_ids_of_transformers(tmp_path, case):
    library = library_of(tmp_path, case["architecture"], MODEL[case["model"]], **case["settings"])
    found = [encoding.ids for encoding in library.encode_batch(STORED["texts"])]
    assert found == case["ids"]


def test_the_goldens_stay_small():
    assert all(len(data) < 20_000 for data in MODEL.values())


def test_fairseq_ids_start_with_its_own_four_and_end_with_the_mask(tmp_path):
    vocabulary = library_of(tmp_path).get_vocab()
    count = len(read_model(tmp_path / "source" / FILES["xlm-roberta"]).pieces)
    assert [vocabulary[t] for t in ("<s>", "<pad>", "</s>", "<unk>")] == [0, 1, 2, 3]
    assert vocabulary["<mask>"] == count + 1


def test_a_mask_that_the_model_lacks_comes_after_its_pieces(tmp_path):
    library = library_of(tmp_path, "deberta-v2", MODEL["bpe"])
    count = len(read_model(tmp_path / "source" / FILES["deberta-v2"]).pieces)
    assert library.token_to_id("[MASK]") == count


@pytest.mark.parametrize("architecture", FILES)
def test_a_pair_has_the_ends_of_its_class(tmp_path, architecture):
    tokens = library_of(tmp_path, architecture).encode("a", "b").tokens
    angles = ["<s>", "</s>", "</s>", "</s>"]
    found = [token for token in tokens if token in {*angles, "[CLS]", "[SEP]"}]
    fairseq = FILES[architecture].startswith("sentencepiece")
    assert found == (angles if fairseq else ["[CLS]", "[SEP]", "[SEP]"])


def test_a_special_token_is_kept_whole_and_a_user_piece_too(tmp_path):
    library = library_of(tmp_path)
    ids = library.encode("a <mask> b<user>c").ids
    assert {library.token_to_id("<mask>"), library.token_to_id("<user>")} < set(ids)


def test_a_model_in_tokenizer_json_is_taken_as_it_is(tmp_path):
    from tokenizers import Tokenizer, models

    library_of(tmp_path)
    plain = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    plain.save(str(tmp_path / "source" / "tokenizer.json"))
    assert library_of(tmp_path).encode("a").ids == [1]


def test_an_xlm_roberta_without_tokenizer_json_exports_and_answers(tmp_path):
    source = tmp_path / "source"
    count = len(library_of(tmp_path / "text").get_vocab())
    tiny.write_roberta(
        source,
        model_type="xlm-roberta",
        architectures=["XLMRobertaForSequenceClassification"],
        vocab_size=count,
        settings={"tokenizer_class": "XLMRobertaTokenizer"},
    )
    (source / "tokenizer.json").unlink()
    (source / FILES["xlm-roberta"]).write_bytes(MODEL["unigram"])
    bundle = export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    model = lmonnx.load(bundle.path)
    assert model.bundle.manifest.text.source.pad_id == 1
    found = model.logits(["the film is good", "中文 \ufffd", ""])
    assert found.shape == (3, 2) and np.isfinite(found).all()


def test_a_model_with_more_pieces_than_embeddings_is_refused(tmp_path):
    source = tmp_path / "source"
    tiny.write_roberta(
        source, model_type="xlm-roberta", vocab_size=100, settings={"tokenizer_class": None}
    )
    (source / "tokenizer.json").unlink()
    (source / FILES["xlm-roberta"]).write_bytes(MODEL["unigram"])
    with pytest.raises(StageError, match="the model has 100 embeddings"):
        export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)


# Reading -----------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    rest, low = divmod(value, 128)
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, value: bytes | int | float) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float = 0.0, kind: int = 1) -> bytes:
    return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))


START = piece("<unk>", kind=2) + piece("<s>", kind=3) + piece("</s>", kind=3) + piece("▁a", -1.0)


def read(folder: Path, data: bytes):
    (folder / "m.model").write_bytes(data)
    return read_model(folder / "m.model")


def test_the_models_read_as_they_were_trained(tmp_path):
    unigram, bpe = (read(tmp_path, MODEL[name]) for name in ("unigram", "bpe"))
    assert (unigram.algorithm, bpe.algorithm) == (Algorithm.UNIGRAM, Algorithm.BPE)
    assert (unigram.unknown_id, bpe.unknown_id, bpe.unknown) == (0, 3, "[UNK]")
    assert 0 < len(unigram.charsmap) < 5000
    types = [item.type for item in unigram.pieces]
    assert types.count(PieceType.BYTE) == 256
    assert types.count(PieceType.USER_DEFINED) == 2
    assert [item.text for item in bpe.pieces[:3]] == ["[PAD]", "[CLS]", "[SEP]"]


def test_what_is_left_out_has_the_defaults_of_the_format(tmp_path):
    model = read(tmp_path, field(1, field(1, b"a")))
    assert (model.algorithm, model.unknown_id, model.unknown) == (Algorithm.UNIGRAM, 0, "<unk>")
    assert (model.pieces[0].score, model.pieces[0].type) == (0.0, PieceType.NORMAL)


def test_the_last_value_counts_and_a_repeated_message_adds_to_the_first(tmp_path):
    data = START + field(2, field(40, 2) + field(45, b"a") + field(40, 1)) + field(2, field(3, 2))
    model = read(tmp_path, data)
    assert (model.unknown_id, model.unknown, model.algorithm) == (1, "a", Algorithm.BPE)


def test_fields_of_another_wire_type_are_skipped_as_a_parser_does(tmp_path):
    model = read(tmp_path, START + field(2, field(3, b"x") + field(45, 7)) + field(1, 5))
    assert (len(model.pieces), model.unknown) == (4, "<unk>")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["source", "target"])
def test_a_real_model_is_read_whole(shared, name):
    model = read_model(shared / "models" / "marian-multi30k-de-en" / f"{name}.spm")
    assert (len(model.pieces), model.algorithm, model.unknown_id) == (6000, Algorithm.UNIGRAM, 1)
    assert model.pieces[0].type is PieceType.CONTROL
    assert len(model.charsmap) > 200_000  # nmt_nfkc


@pytest.mark.shared
@pytest.mark.parametrize("architecture", FILES)
def test_a_real_model_is_built(shared, tmp_path, architecture):
    data = (shared / "models" / "marian-multi30k-de-en" / "source.spm").read_bytes()
    tokens = library_of(tmp_path, architecture, data).encode("ein Mann ﬁndet ½").tokens
    assert "▁Mann" in tokens or "▁mann" in tokens or architecture == "albert"
    assert len(tokens) > 5


DAMAGED = {
    "empty": (b"", "it has no pieces"),
    "cut in a piece": (MODEL["unigram"][:101], "cut short"),
    "no protobuf": (b"\x80\x02}q\x00.", "cut short"),
    "text": (b"#version: 0.2\na b\n", "wire type 3"),
    "type 0": (START + piece("b", kind=0), "0 is not a valid PieceType"),
    "type 7": (START + piece("b", kind=7), "7 is not a valid PieceType"),
    "algorithm 9": (START + field(2, field(3, 9)), "9 is not a valid Algorithm"),
    "not UTF-8": (START + field(1, field(1, b"\xff")), "utf-8"),
    "empty piece": (START + piece(""), "the piece '' with the score"),
    "long piece": (START + piece("a" * 1001), "the piece 'aaaa"),
    "score nan": (START + piece("b", float("nan")), "with the score nan"),
    "score inf": (START + piece("b", float("-inf")), "with the score -inf"),
    "unknown outside": (START + field(2, field(40, 4)), "the unknown piece is 4 of 4"),
    "unknown negative": (START + field(2, field(40, 2**64 - 1)), "the unknown piece is 1844"),
    "charsmap cut": (START + field(3, field(2, b"\x09\0\0\0abcd")), "normalization is cut short"),
    "charsmap of no units": (START + field(3, field(2, b"\0\0\0\0")), "normalization is cut short"),
    "charsmap leads out": (
        START + field(3, field(2, b"\4\0\0\0" + b"\0\4\0\0" + b"abc")),
        "normalization leads outside",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_model_is_one_line(tmp_path, data, said):
    refused(tmp_path, rf"sentencepiece\.bpe\.model is not a whole .*{said}", model=data)


def charsmap(value: int) -> bytes:
    # One block of 256 units: the root leads to "a", whose replacement starts at `value`.
    units = np.zeros(256, "<u4")
    units[ord("a")] = ord("a") | 1 << 8 | ord("b") << 10  # its leaf is at 97 ^ (98 << 0)
    units[ord("a") ^ ord("b")] = 2**31 | value
    return struct.pack("<I", units.nbytes) + units.tobytes() + "é\0b\0".encode()


def test_a_charsmap_replaces(tmp_path):
    data = START + piece("▁bc", -1.0) + field(3, field(2, charsmap(3)))
    assert "▁bc" in library_of(tmp_path, "deberta-v2", data).encode("ac").tokens


@pytest.mark.parametrize("value", [1, 5, 2**31 - 1])
def test_a_charsmap_whose_replacement_starts_in_no_character_is_refused(tmp_path, value):
    data = START + field(3, field(2, charsmap(value)))
    refused(tmp_path, "normalization leads outside", model=data)


def test_a_charsmap_that_starts_with_a_value_is_refused(tmp_path):
    data = charsmap(0)
    data = data[:4] + struct.pack("<I", 2**31 + 5 * 2**20) + data[8:]
    refused(tmp_path, "normalization leads outside", model=START + field(3, field(2, data)))


@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_changed_charsmap_is_refused_or_normalizes(tmp_path_factory, changes):
    model = read_model(GOLDEN / "sentencepiece" / "unigram.model")
    data = bytearray(model.charsmap)
    for at, value in changes:
        data[at % len(data)] = value
    folder = tmp_path_factory.mktemp("changed")
    with suppress(LmonnxError):
        library = library_of(folder, model=START + field(3, field(2, bytes(data))))
        assert library.encode("the ﬁlm ½… \t中文😀" + "".join(map(chr, range(1, 400)))).ids


@pytest.mark.parametrize("algorithm", [3, 4])
def test_a_model_of_words_or_characters_is_refused(tmp_path, algorithm):
    data = START + field(2, field(3, algorithm))
    refused(tmp_path, r"model of (words|chars) is not built here", UnsupportedError, model=data)


def test_spaces_after_words_are_refused(tmp_path):
    data = START + field(2, field(24, 1))
    refused(tmp_path, "treat_whitespace_as_suffix", UnsupportedError, model=data)


def test_a_bpe_model_without_its_unknown_piece_is_refused(tmp_path):
    data = START + field(2, field(3, 2) + field(45, b"?"))
    refused(tmp_path, "has no piece '\\?', the unknown one", model=data)


@pytest.mark.parametrize("architecture", ["albert", "deberta-v2"])
def test_settings_of_another_type_are_refused(tmp_path, architecture):
    refused(tmp_path, "do_lower_case is 'no'", architecture=architecture, do_lower_case="no")


def test_without_the_model_the_way_out_is_said(tmp_path):
    library_of(tmp_path)
    (tmp_path / "source" / FILES["xlm-roberta"]).unlink()
    with pytest.raises(UnsupportedError, match=r"has neither tokenizer\.json nor sentencepiece"):
        export_text(
            open_checkpoint(str(tmp_path / "source")), Draft(tmp_path / "out"), positions=64
        )


@given(st.integers(0, len(MODEL["bpe"]) - 1), st.binary(max_size=4))
def test_a_changed_model_is_read_or_refused_in_one_line(tmp_path_factory, at, put):
    data = MODEL["bpe"][:at] + put + MODEL["bpe"][at + len(put) :]
    with suppress(LmonnxError):
        library = library_of(tmp_path_factory.mktemp("changed"), "deberta-v2", data)
        assert library.encode("the film ﬁ ½").ids is not None


@given(st.binary(max_size=100))
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
def test_any_bytes_give_a_model_or_our_error(tmp_path_factory, data):
    with suppress(LmonnxError):
        assert read(tmp_path_factory.mktemp("any"), data).pieces
