"""The vocabularies and tokenizers of the tiny checkpoints, as transformers' classes make them."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
)
from tokenizers.processors import RobertaProcessing, TemplateProcessing

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_ALNUM = "abcdefghijklmnopqrstuvwxyz0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WORDS = ("film", "good", "bad", "not", "the", "##ing", "É", "é", "e", "中", "文", "😀", "ا")
WORDPIECES = tuple(
    dict.fromkeys(
        (*BERT_SPECIAL, *_ALNUM, *(f"##{c}" for c in _ALNUM), *_PUNCTUATION, *_WORDS, "##é", "A")
    )
)
MPNET_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "[UNK]")
MPNET_PIECES = (*MPNET_SPECIAL, *WORDPIECES[len(BERT_SPECIAL) :], "<mask>")
ALBERT_SPECIAL = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
_SCORED = (
    *(("▁" + word, -3.0) for word in ("film", "good", "bad", "not", "the", "is")),
    *((piece, -5.0) for piece in ("▁", "in", "ing", "oo", "th")),
    *((character, -8.0) for character in _ALNUM + _PUNCTUATION + "中文😀ا"),
)
UNIGRAMS = (*((token, 0.0) for token in ALBERT_SPECIAL), *_SCORED)
MERGES = (
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġt", "he"),
    ("i", "n"),
    ("in", "g"),
    ("Ġ", "f"),
    ("i", "l"),
    ("Ġf", "il"),
    ("Ġfil", "m"),
    ("o", "o"),
    ("g", "oo"),
    ("goo", "d"),
    ("Ġ", "good"),
)


def byte_pieces() -> dict[str, int]:
    """Return RoBERTa's vocabulary: special tokens, 256 bytes, merges."""
    pieces = (*ROBERTA_SPECIAL[:4], *sorted(pre_tokenizers.ByteLevel.alphabet()))
    merged = ("".join(merge) for merge in MERGES)
    return {piece: i for i, piece in enumerate((*pieces, *merged, ROBERTA_SPECIAL[4]))}


def write_json(path: Path, value: Any) -> None:
    """Write JSON, as UTF-8."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def wordpiece_tokenizer(vocabulary: Mapping[str, int], **settings: Any) -> Tokenizer:
    """Return BertTokenizerFast's tokenizer."""
    tokenizer = wordpiece_model(vocabulary, **settings)
    tokenizer.add_special_tokens(list(BERT_SPECIAL))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def wordpiece_model(vocabulary: Mapping[str, int], **settings: Any) -> Tokenizer:
    """Return BERT's pieces and normalizer, without special tokens."""
    tokenizer = Tokenizer(models.WordPiece(dict(vocabulary), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def byte_bpe_tokenizer() -> Tokenizer:
    """Return RobertaTokenizerFast's tokenizer."""
    tokenizer = Tokenizer(models.BPE(byte_pieces(), list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(ROBERTA_SPECIAL[:4]))
    tokenizer.add_special_tokens([AddedToken(ROBERTA_SPECIAL[4], lstrip=True, normalized=False)])
    tokenizer.post_processor = RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False, trim_offsets=True
    )
    return tokenizer


def mpnet_tokenizer() -> Tokenizer:
    """Return MPNetTokenizerFast's tokenizer."""
    vocabulary = {token: index for index, token in enumerate(MPNET_PIECES)}
    tokenizer = wordpiece_model(vocabulary)
    tokenizer.add_special_tokens(list(MPNET_SPECIAL[:3]))
    tokenizer.add_special_tokens(["[UNK]", AddedToken("<mask>", lstrip=True, normalized=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair="<s>:0 $A:0 </s>:0 </s>:0 $B:1 </s>:1",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def unigram_tokenizer() -> Tokenizer:
    """Return AlbertTokenizerFast's tokenizer."""
    tokenizer = Tokenizer(models.Unigram(list(UNIGRAMS), unk_id=1))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(ALBERT_SPECIAL[:4]))
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def write_wordpiece(folder: Path, tokenizer: str) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n", encoding="utf-8")
    if tokenizer == "json":
        vocabulary = {token: index for index, token in enumerate(WORDPIECES)}
        wordpiece_tokenizer(vocabulary).save(str(folder / "tokenizer.json"))


def write_mpnet(folder: Path, tokenizer: str) -> None:
    (folder / "vocab.txt").write_text("\n".join(MPNET_PIECES) + "\n", encoding="utf-8")
    if tokenizer == "json":
        mpnet_tokenizer().save(str(folder / "tokenizer.json"))


def write_unigram(folder: Path, tokenizer: str) -> None:
    if tokenizer == "json":
        unigram_tokenizer().save(str(folder / "tokenizer.json"))


def write_byte_bpe(folder: Path, tokenizer: str) -> None:
    if tokenizer == "json":
        byte_bpe_tokenizer().save(str(folder / "tokenizer.json"))
        return
    write_json(folder / "vocab.json", byte_pieces())
    lines = ("#version: 0.2", *(" ".join(merge) for merge in MERGES))
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def byte_symbols() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary (GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in plain else next(spare)) for byte in range(256)]


def byte_tokenizer(
    words: Sequence[str], special: Container[str], frame: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a tokenizer.json of one token a byte.

    Args:
        words: The vocabulary.
        special: Which of them are special tokens.
        frame: "single", "pair" and "special_tokens" of what is put around texts.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": word, "special": True, **flags}
            for i, word in enumerate(words)
            if word in special
        ],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": False},
        "post_processor": {"type": "TemplateProcessing", **frame},
        "decoder": {**level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": [],
        },
    }
