"""Source and target tokenizers: languages where they belong, SentencePiece's rules, bytes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from lmonnx.bundle.manifest import TextSpec, TokenizerSpec
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.generate.pair_tokenizer import SourceTokenizer, TargetTokenizer
from lmonnx.runtime.generate.piece_rules import HIDDEN, PieceRules
from lmonnx.runtime.generate.sentencepiece_text import Normalizer

PAD, END, UNK, HAUS, SPACE, HIDDEN_CJK, CODE, BEYOND = range(8)
PIECES = ("<pad>", "</s>", "<unk>", "▁Haus", "▁", HIDDEN + "中", HIDDEN + ">>de<<", "s")
TOKENS = {"<pad>": PAD, "</s>": END, "<unk>": UNK}
RULES = PieceRules(UNK, BEYOND, TOKENS, {}, codes=True)


def bundle(folder, rules: PieceRules | None = RULES, pieces=PIECES) -> tuple:
    """Write a tokenizer of few pieces, the last unknown to the model; return both sides."""
    folder.mkdir(exist_ok=True)
    scores = [(piece, 0.0 if piece[0] in "< " else -1.0) for piece in pieces]
    made = Tokenizer(models.Unigram(scores, UNK, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    made.decoder = decoders.Sequence(
        [decoders.Replace(HIDDEN, ""), decoders.Replace("▁", " "), decoders.Fuse()]
    )
    made.add_special_tokens(list(TOKENS))
    made.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    made.save(str(folder / "tokenizer.json"))
    spec = TokenizerSpec("tokenizer.json", pad_id=PAD, id_map="pieces.json" if rules else None)
    if rules:
        (folder / "pieces.json").write_text(rules.to_json(), encoding="utf-8")
    text = TextSpec(source=spec, max_length=64)
    return SourceTokenizer(folder, text), TargetTokenizer(folder, text)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    return bundle(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("rules", [RULES, None])
def test_languages_stand_around_all_other_tokens(tmp_path, rules):
    source, _ = bundle(tmp_path, rules)
    assert source.encode(["Haus"], before=[9], after=[8]) == [[9, HAUS, END, 8]]
    assert source.frame == ([], [END]) and source.encode([""]) == [[END]]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("  Haus \n", [HAUS, SPACE, UNK]),
        ("Haus</s>Haus", [HAUS, END, HAUS]),
        ("中", [SPACE, HIDDEN_CJK]),
        ("Hauss", [HAUS, UNK]),
        (">>de<<Haus", [CODE, HAUS]),
        (">>xx<< Haus", [UNK, HAUS]),
        ("Haus >>de<<", [HAUS, SPACE, CODE]),  # one unknown piece, which vocab.json has
        ("Haus >>xx<<", [HAUS, SPACE, UNK]),
        ("<pad>>>de<<", [PAD, CODE]),
    ],
)
def test_text_becomes_the_models_ids(sides, text, ids):
    assert sides[0].within(text) == sides[1].within(text) == ids


def test_a_piece_of_no_text_has_its_text_when_it_is_decoded(sides):
    ids = [[CODE, HAUS, HIDDEN_CJK, UNK, END, PAD], []]
    assert sides[1].decode_many(ids) == [">>de<< Haus中", ""]
    assert sides[1].text(ids[0]) == ">>de<< Haus中"


@pytest.mark.parametrize("rules", [RULES, None])
@pytest.mark.parametrize("text", ["a\ud800", 3, None])
def test_what_is_no_text_is_refused_by_its_place(tmp_path, rules, text):
    source, target = bundle(tmp_path, rules)
    for refused in (lambda: source.encode(["Haus", text]), lambda: target.encode(["Haus", text])):
        with pytest.raises(InputError, match="text 1 is"):
            refused()


def test_bytes_are_ids_and_what_is_no_character_goes(tmp_path):
    rules = PieceRules(UNK, 300, TOKENS, {"</s>": "lr"}, first_byte=3, end_once=True)
    source, target = bundle(tmp_path, rules)
    assert source.encode(["aé", "a </s> b", "a </s>"]) == [
        [100, 198, 172, END], [100, END, 101, END], [100, END],
    ]  # fmt: skip
    assert target.text([100, 198, END, 172, 198, 299]) == "aé"


def test_what_no_piece_covers_is_spelled_in_bytes(tmp_path):
    bytes_of = tuple(HIDDEN + f"<0x{byte:02X}>" for byte in "é".encode())
    rules = PieceRules(UNK, 9, TOKENS, byte_fallback=True)
    source, target = bundle(tmp_path, rules, (*PIECES[:BEYOND], *bytes_of))
    assert source.within("Hausé") == [HAUS, BEYOND, BEYOND + 1]
    assert target.text([HAUS, BEYOND, BEYOND + 1, END]) == "Hausé"
    assert target.text([BEYOND, HAUS, BEYOND + 1]) == "\ufffd Haus\ufffd"


@given(st.text(alphabet="ab \u2581"))
def test_normalized_text_has_single_spaces_within_and_none_at_its_end(text):
    found = Normalizer(b"", dummy_prefix=True, squeeze=True).apply(text)
    assert not found.endswith("▁") and " " not in found
    assert found == "" or found[0] == "▁"


def test_without_squeezing_every_space_stays():
    kept = Normalizer(b"", dummy_prefix=False, squeeze=False)
    assert kept.apply("  a  ") == "▁▁a▁▁" and kept.apply("") == ""


# Hostile bundles ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"charsmap": "!"}, {"charsmap": "AAAA"}, {"unknown_id": "2"}, {"size": None},
        {"tokens": {"": 1}}, {"tokens": [1]}, {"tokens": {"a": 1.5}}, {"codes": 1}, {"more": 1},
        {"strips": {"a": 1}}, {"first_byte": "3"},
    ],
)  # fmt: skip
def test_rules_that_are_none_are_a_bundles_fault(tmp_path, change):
    bundle(tmp_path)
    path = tmp_path / "pieces.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    spec = TokenizerSpec("tokenizer.json", pad_id=PAD, id_map="pieces.json")
    with pytest.raises(BundleError, match=r"pieces\.json") as caught:
        SourceTokenizer(tmp_path, TextSpec(source=spec, max_length=64))
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=64), st.text(max_size=20))
def test_a_damaged_normalization_ends_in_text_or_one_error(data, text):
    size = len(data) // 2 // 4 * 4
    charsmap = size.to_bytes(4, "little") + data
    try:
        found = Normalizer(charsmap, dummy_prefix=True, squeeze=True).apply(text)
    except ValueError:
        return
    assert isinstance(found, str)
