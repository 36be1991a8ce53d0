"""Tokenizers from GGUF keys: the ids of the tokenizer that the keys were made from."""

import json

import pytest
from gguf import TokenType
from tokenizers import Tokenizer

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.checkpoint.gguf_pretokenizers import PRE_TOKENIZERS
from lmonnx.errors import StageError, UnsupportedError
from tests import tiny_text
from tests.conftest import MODELS
from tests.gguf_files import byte_level_text, read_json, scored_text, write_gguf
from tests.gguf_models import VOCABULARY, arrays_of, config_of
from tests.texts import NASTY

pytestmark = pytest.mark.compiler

SMOLLM2 = MODELS / "smollm2-135m-instruct"
LONG = ("x" * 100_000, "word " * 20_000, "中文😀" * 30_000, " " * 3_000, "\u202e\u0007\u2028")
SPECIAL = ("<|im_start|>user\nhi<|im_end|>\n", "a<|endoftext|>b", " <s> ", "</s></s>")
NORMAL, CONTROL, UNKNOWN = TokenType.NORMAL, TokenType.CONTROL, TokenType.UNKNOWN
PIECES = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    *((f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)),
    *((piece, -1.0 - i, NORMAL) for i, piece in enumerate(["▁a", "<s", "ab", "▁ab", "</", "s>"])),
    *((piece, -50.0, NORMAL) for piece in ["▁", "a", "b", "<", "s", ">", "/"]),
    ("   ", -1000.0, TokenType.USER_DEFINED),
    ("[PAD276]", -1000.0, TokenType.UNUSED),
]


@pytest.fixture(scope="module")
def byte_tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tiny_text.write_byte_bpe(folder, "json")
    tokenizer = read_json(folder / "tokenizer.json")
    for token in tokenizer["added_tokens"]:
        token["lstrip"] = False  # GGUF has no place for it
    return tokenizer


def byte_text(tokenizer, pre="gpt-2", **changes):
    text = byte_level_text(tokenizer, pre, VOCABULARY, bos=0, eos=2, padding=1)
    named = {f"tokenizer.{key.replace('__', '.')}": value for key, value in changes.items()}
    return {key: value for key, value in (text | named).items() if value is not None}


def piece_text(**changes):
    text = scored_text(PIECES, bos=1, eos=2, unknown=0)
    named = {f"tokenizer.{key.replace('__', '.')}": value for key, value in changes.items()}
    return {key: value for key, value in (text | named).items() if value is not None}


def opened(folder, text, family="llama"):
    config = config_of(family)
    return open_checkpoint(str(write_gguf(folder / "x.gguf", config, arrays_of(config), text)))


def tokenizer_of(folder, text, family="llama"):
    checkpoint = opened(folder, text, family)
    return Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))


def ids(tokenizer, text, *, special=True):
    return tokenizer.encode(text, add_special_tokens=special).ids


def test_a_byte_level_tokenizer_gives_the_ids_and_texts_of_its_original(tmp_path, byte_tokenizer):
    made = tokenizer_of(tmp_path, byte_text(byte_tokenizer))
    original = Tokenizer.from_str(json.dumps(byte_tokenizer))
    for text in (*NASTY, *LONG, *SPECIAL):
        wanted = ids(original, text, special=False)
        assert ids(made, text) == wanted
        assert made.decode(wanted) == original.decode(wanted)


def test_what_fills_the_table_is_no_token(tmp_path, byte_tokenizer):
    made = tokenizer_of(tmp_path, byte_text(byte_tokenizer))
    assert made.token_to_id("[PAD279]") is None
    assert made.id_to_token(279) is None


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_every_known_pre_tokenizer_keeps_every_byte(tmp_path, byte_tokenizer, pre):
    text = byte_text(byte_tokenizer, pre, ggml__add_bos_token=False)
    made = tokenizer_of(tmp_path, text)
    for sample in ("", "I'LL do 12345 things, don't\r\n\n  wait…  中文ÉCOLE", " \t\n x", *LONG):
        assert made.decode(ids(made, sample)) == sample


def test_numbers_are_cut_as_the_name_says(tmp_path, byte_tokenizer):
    cuts = {}
    for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2"):
        made = tokenizer_of(tmp_path, byte_text(byte_tokenizer, pre))
        parts = made.pre_tokenizer.pre_tokenize_str("12345")
        cuts[pre] = [part for part, _ in parts]
    assert cuts == {
        "gpt-2": ["12345"],
        "smollm": [*"12345"],
        "llama-bpe": ["123", "45"],
        "qwen2": [*"12345"],
    }


def test_a_file_without_the_name_has_the_architecture_s_own(tmp_path, byte_tokenizer):
    text = byte_text(byte_tokenizer, None)
    assert ids(tokenizer_of(tmp_path, text, "gpt2"), "12 good") != []
    with pytest.raises(UnsupportedError, match="it names none"):
        opened(tmp_path, text)


FLAGS = {
    (False, False): ([], []),
    (True, False): ([0], []),
    (False, True): ([], [2]),
    (True, True): ([0], [2]),
}


@pytest.mark.parametrize(("flags", "ends"), FLAGS.items())
def test_bos_and_eos_are_put_as_the_flags_say(tmp_path, byte_tokenizer, flags, ends):
    bos, eos = flags
    text = byte_text(byte_tokenizer, ggml__add_bos_token=bos, ggml__add_eos_token=eos)
    made = tokenizer_of(tmp_path, text)
    plain = ids(made, "good", special=False)
    assert ids(made, "good") == [*ends[0], *plain, *ends[1]]
    pair = made.encode("good", "good").ids
    assert pair == [*ends[0], *plain, *ends[1]] * 2


def test_llama3_begins_with_bos_where_no_key_says_it(tmp_path, byte_tokenizer):
    assert ids(tokenizer_of(tmp_path, byte_text(byte_tokenizer, "llama-bpe")), "") == [0]


def test_end_tokens_are_the_stated_ones_and_those_known_by_their_text(tmp_path, byte_tokenizer):
    text = byte_text(byte_tokenizer, ggml__eot_token_id=3)
    text["tokenizer.ggml.tokens"][4] = "<|im_end|>"
    text["tokenizer.ggml.token_type"][4] = int(CONTROL)
    stated = opened(tmp_path, text).json_file("generation_config.json")
    assert stated["eos_token_id"] == [2, 3, 4]


def test_a_pad_id_beyond_the_vocabulary_is_none(tmp_path, byte_tokenizer):
    text = byte_text(byte_tokenizer, ggml__padding_token_id=2**32 - 1)
    assert "pad_token_id" not in opened(tmp_path, text).config


def test_pieces_merge_by_score_and_bytes_stand_for_the_rest(tmp_path):
    made = tokenizer_of(tmp_path, piece_text())
    names = [made.id_to_token(index) for index in ids(made, "ab abé")]
    assert names == ["<s>", "▁ab", "▁ab", "<0xC3>", "<0xA9>"]
    assert made.decode(ids(made, "ab abé")) == "ab abé"


def test_without_the_prefix_no_space_is_put_first(tmp_path):
    made = tokenizer_of(tmp_path, piece_text(ggml__add_space_prefix=False))
    assert made.id_to_token(ids(made, "ab")[1]) == "ab"


def test_text_cannot_spell_a_control_token_out_of_pieces(tmp_path):
    made = tokenizer_of(tmp_path, piece_text())
    assert ids(made, "<s>") == [1, 1]
    made.encode_special_tokens = True
    assert ids(made, "a<s></s>", special=False)[1:].count(1) == 0
    assert 2 not in ids(made, "a<s></s>")


def test_phi3s_chat_tokens_swallow_the_spaces_after_them(tmp_path):
    made = tokenizer_of(tmp_path, piece_text(), "phi3")
    assert ids(made, "</s>\n\nab", special=False) == ids(made, "</s>ab", special=False)
    assert ids(made, "<s>\n\nab", special=False) != ids(made, "<s>ab", special=False)


def test_named_templates_become_a_list(tmp_path):
    text = piece_text(chat_template="A", chat_templates=["rag"], chat_template__rag="B")
    settings = opened(tmp_path, text).json_file("tokenizer_config.json")
    named = [{"name": "default", "template": "A"}, {"name": "rag", "template": "B"}]
    assert settings["chat_template"] == named


REFUSED = {
    "no tokenizer": (piece_text, {"ggml__model": None}, "lacks the key tokenizer.ggml.model"),
    "another kind": (piece_text, {"ggml__model": "t5"}, "'t5' is not read from GGUF"),
    "no types": (piece_text, {"ggml__token_type": None}, "lacks the key tokenizer.ggml.token_type"),
    "too few types": (piece_text, {"ggml__token_type": [1, 1]}, "does not say of each"),
    "unknown types": (piece_text, {"ggml__token_type": [9] * len(PIECES)}, "does not say of each"),
    "no scores": (piece_text, {"ggml__scores": None}, "lacks the key tokenizer.ggml.scores"),
    "too few scores": (piece_text, {"ggml__scores": [1.0]}, "1 scores for 274 tokens"),
    "tokens that are numbers": (piece_text, {"ggml__tokens": [1, 2]}, "an array of strings"),
    "no token of that id": (piece_text, {"ggml__eos_token_id": 9999}, "is 9999, must be"),
    "unknown key": (piece_text, {"ggml__suppress_tokens": [1]}, "suppress_tokens is not known"),
    "separator": (piece_text, {"ggml__add_sep_token": True}, "add_sep_token is True"),
    "template of numbers": (piece_text, {"chat_template": 1}, "must be text"),
}


@pytest.mark.parametrize(("make", "changes", "match"), REFUSED.values(), ids=REFUSED)
def test_keys_that_do_not_make_a_tokenizer_are_refused(tmp_path, make, changes, match):
    with pytest.raises((StageError, UnsupportedError), match=match):
        opened(tmp_path, make(**changes))


BYTES_REFUSED = {
    "unknown pre-tokenizer": ({"pre": "kimi-k2"}, "the pre-tokenizer 'kimi-k2' is not known"),
    "a merge of one": ({"ggml__merges": ["good"]}, "merge 0 of tokenizer.ggml.merges, 'good'"),
    "a merge to nothing": ({"ggml__merges": ["z z"]}, "is not of two tokens to a third"),
    "no eos": ({"ggml__eos_token_id": None}, "names no eos token"),
    "bos put and not named": (
        {"ggml__bos_token_id": None, "ggml__add_bos_token": True},
        "begins texts with a bos token and names none",
    ),
}


@pytest.mark.parametrize(("changes", "match"), BYTES_REFUSED.values(), ids=BYTES_REFUSED)
def test_byte_level_keys_that_do_not_fit_are_refused(tmp_path, byte_tokenizer, changes, match):
    with pytest.raises((StageError, UnsupportedError), match=match):
        opened(tmp_path, byte_text(byte_tokenizer, **changes))


def test_two_tokens_of_one_text_are_refused(tmp_path, byte_tokenizer):
    text = byte_text(byte_tokenizer)
    text["tokenizer.ggml.tokens"][50] = text["tokenizer.ggml.tokens"][51]
    with pytest.raises(StageError, match="tokens 50 and 51 are both"):
        opened(tmp_path, text)


@pytest.mark.shared
def test_tinystories_pieces_give_the_ids_of_its_tokenizer(tmp_path, shared):
    source = shared / "models" / "tinystories-260k-llama"
    original = Tokenizer.from_file(str(source / "tokenizer.json"))
    stored = read_json(source / "tokenizer.json")
    kinds = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    kinds |= {f"<0x{byte:02X}>": TokenType.BYTE for byte in range(256)}
    # llama2.c trains with SentencePiece, whose scores count down from its first merge.
    pieces = [
        (piece, 259.0 - index, kinds.get(piece, NORMAL))
        for piece, index in sorted(stored["model"]["vocab"].items(), key=lambda item: item[1])
    ]
    text = scored_text(pieces, bos=1, eos=2, unknown=0)
    config = config_of("llama", vocab_size=len(pieces))
    path = write_gguf(tmp_path / "x.gguf", config, arrays_of(config), text)
    folder = open_checkpoint(str(path))
    made = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    for sample in (*NASTY, *LONG, *SPECIAL):
        assert ids(made, sample) == ids(original, sample)
        assert made.decode(ids(made, sample)) == original.decode(ids(original, sample))


@pytest.mark.models
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="LMONNX_MODELS has no smollm2-135m-instruct")
def test_smollm2s_tokenizer_gives_the_same_ids_on_everything(tmp_path):
    stored = read_json(SMOLLM2 / "tokenizer.json")
    original = Tokenizer.from_file(str(SMOLLM2 / "tokenizer.json"))
    text = byte_level_text(stored, "smollm", 49152, bos=1, eos=2, unknown=0, padding=2)
    config = config_of("llama", vocab_size=49152)
    path = write_gguf(tmp_path / "x.gguf", config, arrays_of(config), text)
    folder = open_checkpoint(str(path))
    made = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    for sample in (*NASTY, *LONG, *SPECIAL):
        assert ids(made, sample) == ids(original, sample)
        assert made.decode(ids(made, sample)) == original.decode(ids(original, sample))
