"""vocab.json and merges.txt → the byte-level BPE that transformers' class makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import ByteLevel, RobertaProcessing, TemplateProcessing

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.checkpoint.gguf_pretokenizers import PRE_TOKENIZERS
from lmonnx.compiler.export.added_tokens import STRIP_MASK, add_tokens, special_tokens, token_id
from lmonnx.errors import StageError

FILES = ("vocab.json", "merges.txt")
Settings = Mapping[str, Any]
_END = "<|endoftext|>"
_ROBERTA_TOKENS = {
    "bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>",
    "mask": "<mask>",
}  # fmt: skip


def build_roberta(checkpoint: Checkpoint, settings: Settings) -> Tokenizer:
    """Build RobertaTokenizerFast's tokenizer (transformers, `RobertaConverter`)."""
    tokenizer = _bpe(checkpoint)
    prefix = settings.get("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    special = special_tokens(checkpoint, settings, _ROBERTA_TOKENS, STRIP_MASK)
    add_tokens(tokenizer, checkpoint, settings, special)
    cls, sep = special["cls"].content, special["sep"].content
    # Both by position: tokenizers 0.23 renamed `cls`.
    tokenizer.post_processor = RobertaProcessing(
        (sep, token_id(tokenizer, sep)),
        (cls, token_id(tokenizer, cls)),
        add_prefix_space=prefix,
        trim_offsets=settings.get("trim_offsets", True),
    )
    return tokenizer


def build_gpt2(checkpoint: Checkpoint, settings: Settings) -> Tokenizer:
    """Build GPT2TokenizerFast's tokenizer (transformers, `GPT2Converter`)."""
    tokenizer = _bpe(checkpoint)
    prefix = bool(settings.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    special = special_tokens(checkpoint, settings, dict.fromkeys(("bos", "eos", "unk"), _END), {})
    add_tokens(tokenizer, checkpoint, settings, special)
    tokenizer.post_processor = ByteLevel(trim_offsets=False)
    if settings.get("add_bos_token"):
        bos = special["bos"].content
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos}:0 $A:0",
            pair=f"{bos}:0 $A:0 $B:1",
            special_tokens=[(bos, token_id(tokenizer, bos))],
        )
    return tokenizer


def build_qwen2(checkpoint: Checkpoint, settings: Settings) -> Tokenizer:
    """Build Qwen2TokenizerFast's tokenizer (transformers, `Qwen2Converter`)."""
    tokenizer = _bpe(checkpoint)
    tokenizer.normalizer = normalizers.NFC()
    cuts: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), "isolated")
        for pattern in PRE_TOKENIZERS["qwen2"].patterns
    ]
    cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    special = special_tokens(checkpoint, settings, dict.fromkeys(("eos", "unk", "pad"), _END), {})
    add_tokens(tokenizer, checkpoint, settings, special)
    tokenizer.post_processor = ByteLevel(trim_offsets=False)
    return tokenizer


def _bpe(checkpoint: Checkpoint) -> Tokenizer:
    """Return the merges of bytes as letters, and back."""
    vocabulary = checkpoint.json_file("vocab.json") or {}
    path = checkpoint.path / "merges.txt"
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise StageError(f"{path} is not UTF-8 text; fetch it again") from error
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    if any(len(pair) != 2 for pair in pairs):
        raise StageError("merges.txt has a line that is not two tokens; fetch it again")
    merges = [(first, second) for first, second in pairs]
    try:
        model = models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="")
    except Exception as error:  # the package raises plain Exception
        said = " ".join(str(error).split())
        raise StageError(f"vocab.json and merges.txt do not fit together ({said})") from error
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
