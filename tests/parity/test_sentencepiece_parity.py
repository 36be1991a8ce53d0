"""Tokenizers built here of SentencePiece models, against transformers' fast and slow ones."""

import io
import json
import re
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library

from lmonnx.bundle.draft import Draft
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export.sentencepiece_model import read_model
from lmonnx.compiler.export.text import export_text
from tests import tiny
from tests.texts import NASTY, mixed_texts

pytestmark = pytest.mark.parity

TEXTS = [text for text in mixed_texts() if isinstance(text, str) and text not in NASTY]

CORPUS = [
    "the film is not good, it is bad and boring", "A great deal of fun, and I loved it at first!",
    "Le film n'est pas bon : c'est long, très long.", "Ünïcödé Éé ÉCOLE ß", "don't can't won't",
    "1.000,50 3e-7 9,9 and 10, 20, 30", "中文电影很好 日本語", "فيلم رائع جدا", "סרט טוב", "😀 👍",
    "https://example.com/a?b=c user@example.com", "The END [of] (it) - \"so\"", "x y z",
]  # fmt: skip
ANGLES = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
ALBERT = {
    "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "pad_piece": "<pad>",
    "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
}  # fmt: skip
BRACKETS = {
    "pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "pad_piece": "[PAD]", "bos_piece": "[CLS]",
    "eos_piece": "[SEP]", "unk_piece": "[UNK]",
}  # fmt: skip
USER = {"user_defined_symbols": ["<user>", "foo bar", "▁x", "9"]}
BPE = {"model_type": "bpe", "vocab_size": 300}
# Name of the case → architecture, what the model is trained with, tokenizer_config.json.
CASES = {
    "xlm-roberta": ("xlm-roberta", ANGLES, {}),
    "xlm-roberta, user pieces": ("xlm-roberta", ANGLES | USER, {}),
    "xlm-roberta, bytes": ("xlm-roberta", ANGLES | {"byte_fallback": True, "vocab_size": 450}, {}),
    "xlm-roberta, bpe": ("xlm-roberta", ANGLES | BPE, {}),
    "xlm-roberta, bpe, user pieces": ("xlm-roberta", ANGLES | BPE | USER, {}),
    "xlm-roberta, plain": ("xlm-roberta", ANGLES | {"normalization_rule_name": "identity"}, {}),
    "xlm-roberta, folded": ("xlm-roberta", ANGLES | {"normalization_rule_name": "nfkc_cf"}, {}),
    "xlm-roberta, spaces kept": ("xlm-roberta", ANGLES | {"remove_extra_whitespaces": False}, {}),
    "xlm-roberta, no prefix": ("xlm-roberta", ANGLES | {"add_dummy_prefix": False}, {}),
    "camembert": ("camembert", ANGLES, {}),
    "camembert, user pieces": ("camembert", ANGLES | USER, {}),
    "camembert, bytes": ("camembert", ANGLES | {"byte_fallback": True, "vocab_size": 450}, {}),
    "albert": ("albert", ALBERT, {}),
    "albert, cased": ("albert", ALBERT, {"do_lower_case": False}),
    "albert, accents": ("albert", ALBERT, {"keep_accents": True}),
    "albert, cased, accents": ("albert", ALBERT, {"keep_accents": True, "do_lower_case": False}),
    "albert, user pieces": ("albert", ALBERT | USER, {}),
    "albert, no ends": ("albert", ANGLES, {}),
    "albert, bpe": ("albert", ALBERT | BPE, {}),
    "deberta-v2": ("deberta-v2", BRACKETS, {}),
    "deberta-v2, lower": ("deberta-v2", BRACKETS, {"do_lower_case": True}),
    "deberta-v2, punctuation": ("deberta-v2", BRACKETS, {"split_by_punct": True}),
    "deberta-v2, user pieces": ("deberta-v2", BRACKETS | USER, {}),
    "deberta-v2, bytes": ("deberta-v2", BRACKETS | {"byte_fallback": True, "vocab_size": 450}, {}),
    "deberta-v2, bpe": ("deberta-v2", BRACKETS | BPE, {}),
    "deberta-v2, no ends": ("deberta-v2", ANGLES, {}),
}  # fmt: skip
FILES = {
    "xlm-roberta": "sentencepiece.bpe.model",
    "camembert": "sentencepiece.bpe.model",
    "albert": "spiece.model",
    "deberta-v2": "spm.model",
}
LETTERS = (
    "abcxyz ABCXYZ 019 .,!?-_'`\"#[]<>/\t\n\x00\x1b\u00a0éÉüßñİǅﬁÅ½中文日ا😀👩\u200d\u0301\ufeff▁"
)
PARTS = (
    *LETTERS,
    "  ",
    "the ",
    "film",
    "<mask>",
    " <mask> ",
    "[MASK]",
    "<s>",
    "[SEP]",
    "<user>",
    "9,9",
)
nasty = st.text(max_size=60) | st.lists(st.sampled_from(PARTS), max_size=30).map("".join)


TRAINING = {"vocab_size": 250, "minloglevel": 2, "hard_vocab_limit": False, "num_threads": 1}


def train(**options) -> bytes:
    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 5), model_writer=made, **TRAINING | options
    )
    return made.getvalue()


def write(folder, architecture, model: bytes, **files):
    """Write a checkpoint's text side; `files` are its JSON files by stem."""
    folder.mkdir()
    tiny.write_json(folder / "config.json", {"model_type": architecture})
    for stem, fields in files.items():
        tiny.write_json(folder / f"{stem}.json", fields)
    (folder / FILES[architecture]).write_bytes(model)
    return folder


def ours(source, folder) -> Library:
    folder.mkdir()
    export_text(open_checkpoint(str(source)), Draft(folder), positions=10**6)
    return Library.from_file(str(folder / "tokenizer.json"))


def theirs(source, *, fast: bool = True):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, use_fast=fast)


def same(library: Library, tokenizer, first: str, second: str | None = None) -> bool:
    found = library.encode(first, second)
    # As a batch of one: a pair given alone loses an empty second text.
    item = first if second is None else (first, second)
    expected = tokenizer([item], return_token_type_ids=True)
    ids, types = expected["input_ids"], expected["token_type_ids"]
    return ([found.ids], [found.type_ids]) == (ids, types)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    architecture, training, changes = CASES[request.param]
    folder = tmp_path_factory.mktemp("text")
    source = write(folder / "source", architecture, train(**training), tokenizer_config=changes)
    warnings.simplefilter("ignore")
    return request.param, ours(source, folder / "out"), theirs(source), theirs(source, fast=False)


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_gets_the_ids_of_transformers(case, text):
    _, library, fast, _ = case
    assert same(library, fast, text)
    assert same(library, fast, text, "a b")
    assert same(library, fast, "", text)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(first=nasty, second=st.none() | nasty)
def test_any_text_gets_the_ids_of_transformers(case, first, second):
    _, library, fast, _ = case
    assert same(library, fast, first, second)


def test_every_id_means_the_token_that_it_means_in_transformers(case):
    _, library, fast, _ = case
    assert library.get_vocab() == fast.get_vocab()


# What a checkpoint says beside the model ---------------------------------------------------------

MASK = {"lstrip": True, "rstrip": False, "normalized": True, "single_word": False}
TOLD = (
    "a <mask> b",
    "a[MASK]b",
    "[mask] [unk]",
    "brandnew <user>",
    "<s>NOTUSED</s>",
    "x <a> <cls>",
)
BASES = ("xlm-roberta", "camembert", "albert", "albert, no ends", "deberta-v2", "deberta-v2, lower")


@pytest.fixture(params=BASES)
def base(request, tmp_path):
    architecture, training, changes = CASES[request.param]
    mask = "<mask>" if FILES[architecture].startswith("sentencepiece") else "[MASK]"
    return architecture, train(**training), changes, mask


def agree(source, folder) -> None:
    library, fast = ours(source, folder), theirs(source)
    found, expected = (t.get_added_tokens_decoder() for t in (library, fast.backend_tokenizer))
    assert {i: repr(token) for i, token in found.items()} == {
        i: repr(token) for i, token in expected.items()
    }
    assert library.get_vocab() == fast.get_vocab()
    # Saved, as it is on the hub: in memory transformers keeps how a token was matched first.
    fast.save_pretrained(folder / "saved")
    saved = theirs(folder / "saved")
    assert all(same(library, saved, text) for text in (*TOLD, *NASTY))


@pytest.mark.parametrize("form", ["fast", "slow", "legacy", "without decoder"])
def test_a_tokenizer_that_transformers_saved_is_that_of_transformers(base, tmp_path, form):
    architecture, model, changes, _ = base
    tokenizer = theirs(
        write(tmp_path / "base", architecture, model, tokenizer_config=changes),
        fast=form == "fast",
    )
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(tmp_path / "saved", legacy_format=form != "fast" or None)
    (tmp_path / "saved" / "tokenizer.json").unlink(missing_ok=True)
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    if form == "without decoder":
        del config["added_tokens_decoder"]
    if form == "slow":
        (tmp_path / "saved" / "special_tokens_map.json").unlink()
    tiny.write_json(tmp_path / "saved" / "tokenizer_config.json", config)
    tiny.write_json(tmp_path / "saved" / "config.json", {"model_type": architecture})
    agree(tmp_path / "saved", tmp_path / "out")


@pytest.mark.parametrize("decoder", [False, True])
def test_the_map_of_special_tokens_rules_where_transformers_reads_it(base, tmp_path, decoder):
    architecture, model, changes, mask = base
    stated = {**changes, "mask_token": "<mask2>", "additional_special_tokens": ["<a>"]}
    if decoder:
        stated["added_tokens_decoder"] = {}
    source = write(
        tmp_path / "source", architecture, model, tokenizer_config=stated,
        special_tokens_map={"mask_token": {"content": mask, **MASK}, "cls_token": "<cls>"},
    )  # fmt: skip
    agree(source, tmp_path / "out")


@pytest.mark.parametrize("special", [{}, {"mask_token": "[MASK]", "unk_token": "[UNK]"}])
@pytest.mark.parametrize("lower", [False, True])
def test_deberta_as_it_is_on_the_hub(tmp_path, special, lower):
    model = train(**BRACKETS)
    (tmp_path / "m.model").write_bytes(model)
    count = len(read_model(tmp_path / "m.model").pieces)
    source = write(
        tmp_path / "source", "deberta-v2", model, added_tokens={"[MASK]": count},
        tokenizer_config={"do_lower_case": lower, "vocab_type": "spm"}, special_tokens_map=special,
    )  # fmt: skip
    agree(source, tmp_path / "out")


# SentencePiece itself ----------------------------------------------------------------------------

ORDINARY = [" ".join(text.split()) for text in (*TEXTS, *CORPUS)]
# Where transformers' fast tokenizers leave SentencePiece: what the case's texts have in common.
# docs/decisions/0008-sentencepiece.md says why.
DIFFERS = {
    "no prefix": r".",  # the fast ones always put a space before
    "user pieces": r"9|foo bar",  # and one after a piece that the user defined
    "bytes": r"[^ -~]",  # what no piece covers is unknown, not bytes
    "albert": r"\d,|\[|<",  # "9," is never taken, rather than cut again
    "punctuation": r"[^\w\s]",  # a space before a mark is a piece of its own
    "no ends": r"<",  # control pieces are matched in the text
}


def test_ordinary_text_gets_the_ids_of_sentencepiece(case):
    name, library, _, slow = case
    rules = [re.compile(rule) for key, rule in DIFFERS.items() if key in name]
    texts = [text for text in ORDINARY if not any(rule.search(text) for rule in rules)]
    assert texts or name.endswith("no prefix")
    assert [text for text in texts if library.encode(text).ids != slow(text)["input_ids"]] == []
    special = slow.all_special_tokens
    assert [library.token_to_id(t) for t in special] == slow.convert_tokens_to_ids(special)
