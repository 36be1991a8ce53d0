"""tokenizer.model → the tokenizer of Llama or Gemma that transformers converts it to.

What no piece covers is spelled in bytes. The tokens around a text are `framing`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.checkpoint.merges import scored_merges
from lmonnx.compiler.export.added_tokens import add_tokens, special_tokens
from lmonnx.compiler.export.sentencepiece_model import Algorithm, SentencePieceModel, read_model
from lmonnx.compiler.export.sentencepiece_tokenizer import added_pieces
from lmonnx.errors import StageError

FILE = "tokenizer.model"
Settings = Mapping[str, Any]
_SPACE, _TAB, _TAB_BYTE = "▁", "\t", "<0x09>"
_LLAMA = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
_GEMMA = {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>"}
_TURNS = frozenset({"<start_of_turn>", "<end_of_turn>"})


def is_rebuilt(settings: Settings) -> bool:
    """Say whether Llama's class passes over tokenizer.json for tokenizer.model.

    Source:
        transformers, `LlamaTokenizerFast.__init__`.
    """
    return settings.get("add_prefix_space") is not None


def build_llama(checkpoint: Checkpoint, settings: Settings) -> Tokenizer:
    """Build LlamaTokenizerFast's tokenizer (transformers, `LlamaConverter`).

    Raises:
        StageError: A file is damaged, or the parts do not fit together.
        UnsupportedError: The model is of a kind that is not built here.
    """
    model = read_model(checkpoint.path / FILE)
    prefix = settings.get("add_prefix_space", True)
    texts = [piece.text for piece in model.pieces]
    tokenizer = Tokenizer(_pieces(model, texts, {text: i for i, text in enumerate(texts)}, 0))
    tokenizer.add_tokens(list(added_pieces(model)))
    spaces = normalizers.Replace(" ", _SPACE)
    if settings.get("legacy") in (None, True):
        begins = [normalizers.Prepend(_SPACE)] if prefix else []
        tokenizer.normalizer = normalizers.Sequence([*begins, spaces])
    else:
        scheme = "first" if prefix else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            _SPACE, prepend_scheme=scheme, split=False
        )
    ends = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([*_back(), *ends])
    special = special_tokens(checkpoint, settings, _LLAMA, {})
    add_tokens(tokenizer, checkpoint, settings, special)
    return tokenizer


def build_gemma(checkpoint: Checkpoint, settings: Settings) -> Tokenizer:
    """Build GemmaTokenizerFast's tokenizer (transformers, `GemmaConverter`).

    Raises:
        StageError: A file is damaged, or the parts do not fit together.
        UnsupportedError: The model is of a kind that is not built here.
    """
    model = read_model(checkpoint.path / FILE)
    special = special_tokens(checkpoint, settings, _GEMMA, {})
    texts = [piece.text for piece in model.pieces]
    ids = {text: index for index, text in enumerate(texts)}
    texts[:3] = [special[role].content for role in ("pad", "eos", "bos")]
    if _TAB not in texts and _TAB_BYTE in texts:
        ids[_TAB] = texts.index(_TAB_BYTE)
        texts[ids[_TAB]] = _TAB
    tokenizer = Tokenizer(_pieces(model, texts, ids, 3))
    tokenizer.add_tokens(list(added_pieces(model, special=_TURNS)))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(_back())
    add_tokens(tokenizer, checkpoint, settings, special)
    return tokenizer


def _back() -> list[Any]:
    return [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _pieces(
    model: SentencePieceModel, texts: list[str], ids: Mapping[str, int], unknown_id: int
) -> Any:
    """Return the model of the pieces `texts`, by id; merges are of `ids`.

    The first three, and a tab in the place of its byte, have no score.
    """
    pairs = enumerate(zip(texts, model.pieces, strict=True))
    scored = [
        (text, piece.score if index > 2 and text == piece.text else 0.0)
        for index, (text, piece) in pairs
    ]
    try:
        if model.algorithm is Algorithm.UNIGRAM:
            return models.Unigram(scored, unknown_id, byte_fallback=True)
        by_text = {text: index for index, (text, _) in enumerate(scored)}
        return models.BPE(
            by_text,
            scored_merges(dict(scored), ids),
            unk_token=model.unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    except Exception as error:  # the package raises plain Exception
        said = " ".join(str(error).split())
        raise StageError(f"{FILE} is not a usable model ({said})") from error
