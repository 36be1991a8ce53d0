"""Tokenizers of encoder-decoders, source and target, against transformers' own classes."""

import functools
import io
import json
import random
import warnings
from pathlib import Path

import pytest

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Place
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export.language_codes import M2M100
from lmonnx.compiler.export.languages import read_languages
from lmonnx.compiler.export.text import export_text
from lmonnx.runtime.generate.pair_tokenizer import SourceTokenizer, TargetTokenizer
from tests import tiny
from tests.conftest import MODELS, SHARED
from tests.nasty_lines import nasty_lines

pytestmark = [pytest.mark.parity, pytest.mark.shared]

FLAN = MODELS / "flan-t5-small-titler"
FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
MARIAN = {"unk_id": 1, "eos_id": 0, "bos_id": -1}
MARIAN_CONFIG = {"model_type": "marian", "vocab_size": 60_000}
BYTES = {"byte_fallback": True}
FOLDED = {"normalization_rule_name": "nmt_nfkc_cf"}
PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
BPE = {"model_type": "bpe"}


def lines(path: str) -> list[str]:
    return (SHARED / "data" / path).read_text(encoding="utf-8").split("\n")


@functools.cache
def real() -> list[str]:
    return [*lines("multi30k/val.de"), *lines("multi30k/val.en"), *lines("wikitext2/valid.txt")]


@functools.cache
def train(**options) -> bytes:
    """Train a small model; `corpus` says on which lines of `real`."""
    import sentencepiece

    made = io.BytesIO()
    first, last = options.pop("first", 0), options.pop("last", 3000)
    given = {"vocab_size": 900, "minloglevel": 2, "hard_vocab_limit": False, "num_threads": 1}
    corpus = iter(real()[first:last])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus, model_writer=made, **given | options
    )
    return made.getvalue()


def ids_of(*models: bytes, first=("</s>", "<unk>"), last=("<pad>",), left_out=()) -> bytes:
    """Number the pieces of models as vocab.json does, but for those with such a beginning."""
    import sentencepiece

    pieces = dict.fromkeys(first)
    for model in models:
        reader = sentencepiece.SentencePieceProcessor(model_proto=model)
        for index in range(reader.get_piece_size()):
            piece = reader.id_to_piece(index)
            kept = not reader.is_control(index) and not reader.is_unknown(index)
            if kept and not piece.startswith(tuple(left_out)):
                pieces[piece] = None
    pieces |= dict.fromkeys(last)
    return json.dumps({piece: index for index, piece in enumerate(pieces)}).encode()


def one(name: str, **options):
    return lambda: {name: train(**options)}


def m2m100(**options):
    def made():
        model = train(**FAIRSEQ | options)
        first = ("<s>", "<pad>", "</s>", "<unk>")
        return {
            "sentencepiece.bpe.model": model,
            "vocab.json": ids_of(model, first=first, last=(), left_out=("▁th",)),
        }

    return made


def marian(source=None, target=None, *, separate=False, codes=()):
    def made():
        first = train(**MARIAN | (source or {}), last=1500)
        second = train(**MARIAN | (target or {}), first=1014, vocab_size=800)
        models = {"source.spm": first, "target.spm": second}
        if separate:
            return models | {"vocab.json": ids_of(first), "target_vocab.json": ids_of(second)}
        # Some pieces have no id, and some characters have one that SentencePiece does not know.
        ids = ids_of(first, second, last=(*codes, "中", "ب", "<pad>"), left_out=("▁S",))
        return models | {"vocab.json": ids}

    return made


CODES = [f"__{code}__" for code in M2M100]
# Name of the case → config.json, tokenizer_config.json, its other files, the source's language.
CASES = {
    "byt5": ({"model_type": "t5"}, {"tokenizer_class": "ByT5Tokenizer"}, dict, None),
    "t5": ({"model_type": "t5"}, {"legacy": True}, one("spiece.model", **T5), None),
    "t5, new": ({"model_type": "t5"}, {"legacy": False}, one("spiece.model", **T5 | FOLDED), None),
    "t5, no prefix": (
        {"model_type": "t5"}, {"add_prefix_space": False, "legacy": True},
        one("spiece.model", **T5), None,
    ),
    "t5, null prefix": (
        {"model_type": "t5"}, {"add_prefix_space": None, "legacy": True},
        one("spiece.model", **T5), None,
    ),
    "mt5": (
        {"model_type": "mt5"}, {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "legacy": True},
        one("spiece.model", **T5 | BYTES), None,
    ),
    "pegasus": ({"model_type": "pegasus"}, {}, one("spiece.model", **T5), None),
    "pegasus, no offset": (
        {"model_type": "bigbird_pegasus"},
        {
            "tokenizer_class": "PegasusTokenizer", "offset": 0, "mask_token_sent": None,
            "mask_token": "[MASK]",
        },
        one("spiece.model", control_symbols=("[MASK]",), **T5), None,
    ),
    "mbart": (
        {"model_type": "mbart"}, {"tokenizer_class": "MBartTokenizer"},
        one("sentencepiece.bpe.model", **FAIRSEQ), "de_DE",
    ),
    "mbart-50": (
        {"model_type": "mbart"}, {"tokenizer_class": "MBart50Tokenizer"},
        one("sentencepiece.bpe.model", **FAIRSEQ), "de_DE",
    ),
    "nllb": (
        {"model_type": "m2m_100"}, {"tokenizer_class": "NllbTokenizer"},
        one("sentencepiece.bpe.model", **FAIRSEQ | BPE), "deu_Latn",
    ),
    "nllb, legacy": (
        {"model_type": "m2m_100"}, {"tokenizer_class": "NllbTokenizer", "legacy_behaviour": True},
        one("sentencepiece.bpe.model", **FAIRSEQ), "deu_Latn",
    ),
    "m2m100": (
        {"model_type": "m2m_100"}, {"additional_special_tokens": CODES}, m2m100(), "de",
    ),
    "m2m100, plain": (
        {"model_type": "m2m_100"}, {"tokenizer_class": "M2M100Tokenizer"},
        m2m100(**BPE | PLAIN), "de",
    ),
    "marian": (MARIAN_CONFIG, {}, marian(codes=(">>fra<<", ">>de<<")), None),
    "marian, two vocabularies": (
        MARIAN_CONFIG, {"separate_vocabs": True}, marian(separate=True), None,
    ),
    "marian, bytes": (MARIAN_CONFIG, {}, marian(BYTES | FOLDED, BYTES | BPE), None),
    "marian, plain": (
        MARIAN_CONFIG, {},
        marian(BPE, PLAIN | {"add_dummy_prefix": False, "split_by_whitespace": False}), None,
    ),
}  # fmt: skip


class Case:
    """Both tokenizers of a checkpoint, ours and theirs."""

    def __init__(self, source: Path, out: Path, lang: str | None = None) -> None:
        from transformers import AutoTokenizer

        out.mkdir()
        checkpoint = open_checkpoint(str(source))
        text = export_text(checkpoint, Draft(out), positions=10**6)
        self.source, self.target = SourceTokenizer(out, text), TargetTokenizer(out, text)
        self.languages, self.around = read_languages(checkpoint), {}
        if self.languages and lang:
            place = {Place.BEFORE: "before", Place.AFTER: "after"}[self.languages.source_place]
            self.around = {place: [self.languages.ids[lang]]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "pip install sacremoses"
            given = {"src_lang": lang} if lang else {}
            self.theirs = AutoTokenizer.from_pretrained(source, **given)
        self.size = len(getattr(self.theirs, "target_encoder", None) or self.theirs)

    def differing(self, texts, *, target=False):
        """Return the texts whose ids are not theirs, but for the order of equal scores."""
        if target:
            found, expected = self.target.encode(texts), self.theirs(text_target=texts)
        else:
            found, expected = self.source.encode(texts, **self.around), self.theirs(texts)
        pairs = zip(texts, found, expected["input_ids"], strict=True)
        return [(text, ids, own) for text, ids, own in pairs if ids != own]

    def random_rows(self, count=1000):
        source = random.Random(1)
        return [source.choices(range(self.size), k=source.randrange(30)) for _ in range(count)]


def is_tie(ids, own) -> bool:
    """Say whether the same pieces come in another order: their sums are equal but for rounding."""
    return sorted(ids) == sorted(own)


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    config, settings, files, lang = CASES[request.param]
    folder = tmp_path_factory.mktemp("pair")
    (folder / "source").mkdir()
    tiny.write_json(folder / "source" / "config.json", {"vocab_size": 300_000} | config)
    tiny.write_json(folder / "source" / "tokenizer_config.json", settings)
    for name, data in files().items():
        (folder / "source" / name).write_bytes(data)
    return Case(folder / "source", folder / "out", lang)


@pytest.fixture(scope="module")
def multi30k(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi30k")
    return Case(SHARED / "models" / "marian-multi30k-de-en", folder / "out")


def test_real_text_has_their_ids(case):
    assert all(is_tie(ids, own) for _, ids, own in case.differing(real()[:3500]))


def test_nasty_lines_have_their_ids(case):
    """ByT5's class takes a second for every 100,000 bytes, so it reads few of them."""
    count = 60 if type(case.theirs).__name__ == "ByT5Tokenizer" else 2500
    assert all(is_tie(ids, own) for _, ids, own in case.differing(nasty_lines(count)))


def test_the_target_has_their_ids(case):
    if "Marian" not in type(case.theirs).__name__:
        pytest.skip("its target's tokenizer is the source's")
    assert not case.differing(real()[:3500], target=True)


@pytest.mark.parametrize("rows", ["random", "real"])
def test_ids_have_their_text(case, rows):
    ids = case.random_rows() if rows == "random" else case.target.encode(real()[:300])
    expected = case.theirs.batch_decode(ids, skip_special_tokens=True)
    assert case.target.decode_many(ids) == expected


def test_languages_have_their_ids(case):
    known = case.languages.ids if case.languages else {}
    convert = case.theirs.convert_tokens_to_ids
    spelled = {"M2M100Tokenizer": "__{}__", "MarianTokenizer": ">>{}<<"}
    form = spelled.get(type(case.theirs).__name__, "{}")
    assert [convert(form.format(code)) for code in known] == list(known.values())


@pytest.mark.parametrize("legacy", [True, False])
def test_t5_as_its_class_saves_it_has_their_ids(tmp_path, legacy):
    """It lists the tokens of masks, which strip the spaces around them."""
    from transformers import T5Tokenizer

    (tmp_path / "spiece.model").write_bytes(train(**T5))
    T5Tokenizer(str(tmp_path / "spiece.model"), extra_ids=7, legacy=legacy).save_pretrained(
        tmp_path
    )
    tiny.write_json(tmp_path / "config.json", {"model_type": "t5", "vocab_size": 300_000})
    found = Case(tmp_path, tmp_path / "out")
    texts = [
        "The <extra_id_0> man",
        "a<extra_id_6> b <extra_id_1><extra_id_2>  c",
        "<extra_id_3> d",
    ]
    assert found.differing([*texts, *real()[:300]]) == []


# Real checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["de", "en"])
def test_every_line_of_multi30k_has_their_ids(multi30k, side):
    texts = [*lines(f"multi30k/val.{side}"), *lines(f"multi30k/test_2016_flickr.{side}")]
    assert multi30k.differing(texts, target=side == "en") == []


def test_ten_thousand_nasty_lines_have_the_ids_of_marian(multi30k):
    found = multi30k.differing(nasty_lines(10_000))
    assert len(found) < 200 and all(is_tie(ids, own) for _, ids, own in found)


def test_sacremoses_is_not_part_of_a_tokenizers_call(multi30k):
    """Its class sets a normalizer up that only `normalize` calls, which encoding does not."""
    multi30k.theirs.punc_normalizer = lambda _: pytest.fail("was called")
    assert multi30k.differing(["«Ein Haus», sagte er … „so“."]) == []


def test_every_name_of_ar2en_has_their_ids(tmp_path):
    found = Case(SHARED / "models" / "aren-transliteration-pegasus", tmp_path / "out")
    texts = [part for line in lines("ar2en/ar2en-test.txt") for part in line.split("\t")]
    assert found.differing(texts) == found.differing(nasty_lines(1000)) == []
    rows = found.random_rows()
    expected = found.theirs.batch_decode(rows, skip_special_tokens=True)
    assert found.target.decode_many(rows) == expected


@pytest.mark.skipif(not FLAN.is_dir(), reason="LMONNX_MODELS has no flan-t5-small-titler")
def test_flan_t5_has_their_ids_and_text(tmp_path):
    found = Case(FLAN, tmp_path / "out")
    assert found.differing(real()) == found.differing(nasty_lines(10_000)) == []
    rows = [*found.random_rows(), *found.target.encode(real())]
    expected = found.theirs.batch_decode(rows, skip_special_tokens=True)
    assert found.target.decode_many(rows) == expected
