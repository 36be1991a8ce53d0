"""Tokenizers of the three kinds that decoders have, small, made here."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = "<|end|>"


def byte_level() -> Tokenizer:
    """Give a byte-level BPE: each byte a token, a few words, parts of characters, a special one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    merges = []
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in ("the", " the", " cat", "é", "中", "中文", "😀", " 😀", "n't", "\n\n"):
        for pieces in (piece for piece, _ in split.pre_tokenize_str(text)):
            made = pieces[0]
            for letter in pieces[1:]:
                if made + letter not in vocabulary:
                    merges.append((made, letter))
                    vocabulary[made + letter] = len(vocabulary)
                made += letter
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([SPECIAL])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Give a SentencePiece-like BPE: ▁ for a space, unknown characters as bytes."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", "a", "b", "é", "中", "▁a", "▁ab", "ab", "\ufffd", ".", "▁."]
    vocabulary = {word: index for index, word in enumerate(words)}
    merges = [("▁", "a"), ("▁a", "b"), ("a", "b"), ("▁", ".")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def metaspace() -> Tokenizer:
    """Give a Unigram with ▁ for a space and nothing for unknown characters."""
    words = ["<unk>", "▁", "▁a", "a", "▁ab", "b", "\ufffd", "▁中", "é", "."]
    tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer
