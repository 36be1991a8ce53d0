"""Tokenizers of decoders from vocabularies alone: bytes come back, and what is unknown is said."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lmonnx.bundle.draft import Draft
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export.text import export_text
from lmonnx.errors import StageError, UnsupportedError
from tests import tiny_text
from tests.texts import NASTY
from tests.tiny_text import byte_bpe_tokenizer, byte_pieces, write_json

pytestmark = pytest.mark.compiler

WORDS = "the film is not good it was a bad bad film and the end was good".split()
ENDS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAMA = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
GEMMA |= {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}


def trained(**options):
    """Return a SentencePiece model with bytes for what it lacks, and its own reader of it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    made = io.BytesIO()
    fixed = {"model_type": "bpe", "vocab_size": 300, "byte_fallback": True, "minloglevel": 2}
    fixed |= {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    lines = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=made, **fixed | options
    )
    return made.getvalue(), sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def written(folder, architecture, settings, **files):
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": architecture})
    write_json(folder / "tokenizer_config.json", settings)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def built(source):
    out = source.parent / "out"
    out.mkdir(exist_ok=True)
    export_text(open_checkpoint(str(source)), Draft(out), positions=64)
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def vocabulary(folder):
    tiny_text.write_byte_bpe(folder, "vocab")
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    model, own = trained(**LLAMA)
    folder = tmp_path_factory.mktemp("llama")
    return built(written(folder / "source", "llama", {}, tokenizer__model=model)), own


@given(st.text(max_size=40) | st.sampled_from(NASTY))
def test_llamas_ids_are_sentencepieces_and_come_back_as_the_text(llama, text):
    tokenizer, own = llama
    tokenizer.encode_special_tokens = True  # to SentencePiece "<s>" in a text is its letters
    ids = tokenizer.encode(text).ids
    assert ids == [1, *own.encode(text)]
    assert tokenizer.decode(ids) == own.decode(ids)


def test_gemmas_text_comes_back_as_it_was(tmp_path):
    model, own = trained(**GEMMA)
    tokenizer = built(written(tmp_path / "source", "gemma2", {}, tokenizer__model=model))
    for text in (" the film", "good  bad", "中\t\n"):
        ids = tokenizer.encode(text).ids
        assert ids[0] == 2 and tokenizer.decode(ids) == text
    assert tokenizer.id_to_token(own.piece_to_id("<0x09>")) == "\t"


def test_gpt2s_vocabulary_gives_the_ids_of_its_tokenizer_json(tmp_path):
    tokenizer = built(vocabulary(written(tmp_path / "source", "gpt2", ENDS)))
    stored = byte_bpe_tokenizer()
    for text in ("the film is good", " a  b\n", "don't", "é 中 😀"):
        assert tokenizer.encode(text).ids == stored.encode(text, add_special_tokens=False).ids


def test_qwen2_cuts_every_digit_for_itself(tmp_path):
    source = vocabulary(written(tmp_path / "source", "qwen2", {"eos_token": "</s>"}))
    pieces = built(source).pre_tokenizer.pre_tokenize_str("in 2024 it's")
    assert [piece for piece, _ in pieces] == ["in", "Ġ", "2", "0", "2", "4", "Ġit", "'s"]


REFUSED = {
    "no vocabulary": ("llama", {}, {}, r"neither tokenizer\.json nor tokenizer\.model"),
    "half of one": ("gpt2", {}, {"vocab__json": b"{}"}, r"nor vocab\.json \+ merges\.txt"),
    "no class we build": (
        "llama",
        {"tokenizer_class": "CodeLlamaTokenizer"},
        {"tokenizer__model": b"\0"},
        "nor a vocabulary that can be read here",
    ),
    "none of its own": ("gpt_neox", {}, {}, "nor a vocabulary that can be read here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_known_vocabulary_is_refused_with_the_way_out(tmp_path, case):
    architecture, settings, files, said = REFUSED[case]
    source = written(tmp_path / "source", architecture, settings, **files)
    with pytest.raises(UnsupportedError, match=f"{said}.*save_pretrained"):
        built(source)


def test_damaged_vocabularies_are_told(tmp_path):
    with pytest.raises(StageError, match=r"tokenizer\.model is not a whole SentencePiece model"):
        built(written(tmp_path / "one", "mistral", {}, tokenizer__model=b"\x0a\xff"))
    source = vocabulary(written(tmp_path / "two", "qwen3", {}))
    (source / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(StageError, match=r"merges\.txt has a line that is not two tokens"):
        built(source)
    (source / "merges.txt").write_text("z q\n")
    with pytest.raises(StageError, match=r"vocab\.json and merges\.txt do not fit together"):
        built(source)
    assert "zq" not in byte_pieces()
