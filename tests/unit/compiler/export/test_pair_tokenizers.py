"""Tokenizers of encoder-decoders: the bundle's files, the languages, and what is refused."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Languages, Place
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export.languages import aimed, read_languages
from lmonnx.compiler.export.sentencepiece_model import PieceType, read_model
from lmonnx.compiler.export.text import export_text
from lmonnx.errors import LmonnxError, StageError, UnsupportedError
from lmonnx.runtime.generate.pair_tokenizer import SourceTokenizer, TargetTokenizer
from tests import tiny

pytestmark = pytest.mark.compiler

MODELS = Path(__file__).parents[3] / "golden" / "sentencepiece"
GIVEN = MODELS / "unigram.model"
ORDINARY = (PieceType.NORMAL, PieceType.USER_DEFINED)
NORMAL = [p.text for p in read_model(GIVEN).pieces if p.type in ORDINARY]
MARIAN = ["</s>", "<unk>", *NORMAL, ">>fra<<", ">>de_AT<<", "<pad>"]
M2M100 = ["<s>", "<pad>", "</s>", "<unk>", *NORMAL]


def plain(name: str) -> bytes:
    """Return a model whose user-defined pieces are ordinary ones: a piece's third field."""
    data = (MODELS / f"{name}.model").read_bytes()
    for text in (b"<user>", "😀".encode()):
        at = data.index(b"\x18\x04", data.index(b"\x0a" + bytes([len(text)]) + text))
        data = data[:at] + b"\x18\x01" + data[at + 2 :]
    return data


UNIGRAM, BPE = plain("unigram"), plain("bpe")


def numbered(pieces) -> dict[str, int]:
    return {piece: index for index, piece in enumerate(pieces)}


def checkpoint(folder: Path, architecture: str, files, *, rows=20_000, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    tiny.write_json(folder / "config.json", {"model_type": architecture, "vocab_size": rows})
    tiny.write_json(folder / "tokenizer_config.json", settings)
    for name, data in files.items():
        (folder / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return open_checkpoint(str(folder))


def marian(folder: Path, **changes):
    """Write a checkpoint of Marian; `changes` are of its files by stem, None for one missing."""
    given = {"vocab": numbered(MARIAN), "source": UNIGRAM, "target": UNIGRAM} | changes
    names = {"vocab": "vocab.json", "source": "source.spm", "target": "target.spm"}
    files = {
        names[stem]: data for stem, data in given.items() if stem in names and data is not None
    }
    settings = {name: value for name, value in given.items() if name not in names}
    return checkpoint(folder, "marian", files, **settings)


def exported(source, out: Path):
    out.mkdir()
    text = export_text(source, Draft(out), positions=64)
    return text, SourceTokenizer(out, text), TargetTokenizer(out, text)


# Files -------------------------------------------------------------------------------------------


def test_one_model_for_both_sides_is_one_tokenizer(tmp_path):
    text, source, target = exported(marian(tmp_path / "in"), tmp_path / "out")
    assert text.target is None and text.source.id_map == "pieces.json"
    assert not list((tmp_path / "out").glob("*.spm"))
    ids = source.encode(["the film"])[0]
    assert target.text(ids) == "the film" and ids[-1] == 0


def test_two_models_are_two_tokenizers_of_one_vocabulary(tmp_path):
    text, source, target = exported(marian(tmp_path / "in", target=BPE), tmp_path / "out")
    assert text.target.file == "target_tokenizer.json"
    assert text.target.id_map == "target_pieces.json"
    assert target.text(source.within("the film")) == "the film"


def test_a_piece_without_an_id_is_cut_and_then_unknown(tmp_path):
    _, whole, _ = exported(marian(tmp_path / "a"), tmp_path / "a-out")
    ids = whole.within("the film")
    kept = [piece for index, piece in enumerate(MARIAN) if index != ids[0]]
    _, source, _ = exported(marian(tmp_path / "b", vocab=numbered(kept)), tmp_path / "b-out")
    found = source.within("the film")
    assert found[0] == 1 and len(found) == len(ids)


def test_ids_may_leave_some_out(tmp_path):
    spread = {piece: 3 * index for index, piece in enumerate(MARIAN)}
    _, source, target = exported(marian(tmp_path / "in", vocab=spread), tmp_path / "out")
    ids = source.encode(["the film"])[0]
    assert all(index % 3 == 0 for index in ids) and target.text([*ids, 1, 2]) == "the film"


def test_bytes_need_no_file(tmp_path):
    made = checkpoint(tmp_path / "in", "t5", {}, rows=384, tokenizer_class="ByT5Tokenizer")
    _, source, target = exported(made, tmp_path / "out")
    assert source.encode(["hé"]) == [[ord("h") + 3, 0xC3 + 3, 0xA9 + 3, 1]]
    assert source.within("<extra_id_0>") == [259] and target.text([107, 259, 1, 0]) == "h"


def test_a_t5_has_its_sentinels_from_the_last_id_down(tmp_path):
    files = {"spiece.model": UNIGRAM}
    _, source, _ = exported(checkpoint(tmp_path / "in", "t5", files), tmp_path / "out")
    first, last = source.within("<extra_id_0>")[-1], source.within("<extra_id_99>")[-1]
    assert first - last == 99


# Languages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "settings", "source", "target", "count"),
    [
        ("mbart", {"tokenizer_class": "MBartTokenizer"}, Place.AFTER, Place.START, 25),
        ("mbart", {"tokenizer_class": "MBart50TokenizerFast"}, Place.BEFORE, Place.FORCED, 52),
        ("m2m_100", {"tokenizer_class": "NllbTokenizer"}, Place.BEFORE, Place.FORCED, 202),
        (
            "m2m_100", {"tokenizer_class": "NllbTokenizer", "legacy_behaviour": True},
            Place.AFTER, Place.FORCED, 202,
        ),
        ("m2m_100", {}, Place.BEFORE, Place.FORCED, 100),
        ("m2m_100", {"language_codes": "wmt21"}, Place.BEFORE, Place.FORCED, 8),
    ],
)  # fmt: skip
def test_languages_stand_where_their_class_puts_them(
    tmp_path, architecture, settings, source, target, count
):
    files = {"sentencepiece.bpe.model": UNIGRAM, "vocab.json": numbered(M2M100)}
    made = checkpoint(tmp_path / "in", architecture, files, **settings)
    found = read_languages(made)
    assert (found.source_place, found.target_place, len(found.ids)) == (source, target, count)
    _, tokenizer, _ = exported(made, tmp_path / "out")
    assert len(tokenizer.frame[0]) == 0 and len(tokenizer.frame[1]) == 1


def test_a_marian_of_many_languages_marks_the_target_alone(tmp_path):
    made = marian(tmp_path, source_lang="en", target_lang="fra")
    found = read_languages(made)
    assert dict(found.ids) == {"fra": len(MARIAN) - 3, "de_AT": len(MARIAN) - 2}
    assert (found.source_place, found.target_place) == (Place.NONE, Place.BEFORE)
    assert (found.source, found.target) == (None, "fra")


@pytest.mark.parametrize(
    ("place", "start", "forced", "found"),
    [
        (Place.START, 7, None, (Place.START, "de")),
        (Place.START, 7, 8, (Place.START, "de")),
        (Place.START, 2, 8, (Place.FORCED, "en")),
        (Place.START, 2, 0, (Place.START, "fr")),
        (Place.START, 2, None, (Place.START, "fr")),
        (Place.FORCED, 2, 8, (Place.FORCED, "en")),
        (Place.FORCED, 7, None, (Place.FORCED, "fr")),
        (Place.BEFORE, 7, 8, (Place.BEFORE, "fr")),
    ],
)
def test_the_target_unasked_is_what_generate_begins_with(place, start, forced, found):
    stated = Languages({"de": 7, "en": 8, "fr": 9}, Place.AFTER, place, target="fr")
    made = aimed(stated, start=start, forced=forced)
    assert (made.target_place, made.target) == found
    assert aimed(None, start=start, forced=forced) is None


@pytest.mark.parametrize("architecture", ["t5", "pegasus", "bart", "bert"])
def test_other_tokenizers_know_no_languages(tmp_path, architecture):
    assert read_languages(checkpoint(tmp_path, architecture, {})) is None


# Hostile checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": None}, r"source\.spm is missing"),
        ({"target": None}, r"target\.spm is missing"),
        ({"vocab": None}, r"vocab\.json is missing"),
        ({"vocab": {}}, r"vocab\.json is missing or empty"),
        ({"vocab": {"</s>": 0, "<unk>": 0, "<pad>": 1}}, "have one id, 0"),
        ({"vocab": {"</s>": 0, "<unk>": 1, "<pad>": -2}}, "no number from 0"),
        ({"vocab": {"</s>": 0, "<unk>": 1, "<pad>": 2.5}}, "no number from 0"),
        ({"vocab": {"</s>": 0, "<unk>": 1, "<pad>": True}}, "no number from 0"),
        ({"vocab": {"</s>": 0, "<unk>": 1, "<pad>": 10**12}}, "gives ids up to 1000000000000"),
        ({"vocab": {"</s>": 0, "<pad>": 1}}, "lacks the token for unknown"),
        ({"source": b"\x0a\xff"}, "not a whole SentencePiece model"),
        ({"target": b""}, "not a whole SentencePiece model"),
        ({"separate_vocabs": True}, r"target_vocab\.json is missing"),
    ],
)
def test_what_is_damaged_is_said_in_one_line(tmp_path, changes, said):
    with pytest.raises(StageError, match=said) as caught:
        exported(marian(tmp_path / "in", **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"extra_ids": "x"}, {"extra_ids": 10**9}, {"extra_ids": -1}])
@pytest.mark.parametrize("name", ["ByT5Tokenizer", "T5Tokenizer"])
def test_a_number_that_is_none_is_refused(tmp_path, name, settings):
    files = {"spiece.model": UNIGRAM}
    made = checkpoint(tmp_path / "in", "t5", files, tokenizer_class=name, **settings)
    with pytest.raises(StageError, match="extra_ids"):
        exported(made, tmp_path / "out")


def test_an_unknown_list_of_languages_is_refused(tmp_path):
    files = {"vocab.json": numbered(M2M100), "sentencepiece.bpe.model": UNIGRAM}
    with pytest.raises(StageError, match="language_codes"):
        read_languages(checkpoint(tmp_path, "m2m_100", files, language_codes="fairseq"))


def test_a_model_cut_anywhere_ends_in_a_tokenizer_or_one_error(tmp_path):
    for at in range(0, len(UNIGRAM), len(UNIGRAM) // 40):
        with suppress(LmonnxError):
            exported(marian(tmp_path / f"{at}", source=UNIGRAM[:at]), tmp_path / f"{at}-out")


def test_user_defined_pieces_are_refused(tmp_path):
    with pytest.raises(UnsupportedError, match=r"source\.spm has user-defined pieces"):
        exported(marian(tmp_path / "in", source=GIVEN.read_bytes()), tmp_path / "out")
