"""A checkpoint whose tokenizer has no fast class in transformers → tokenizers of both its sides.

docs/decisions/0014-pair-tokenizers.md says why these need more than a tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.byte_tokenizer import build_byt5
from lmonnx.compiler.export.marian_tokenizer import build_m2m100, build_marian
from lmonnx.compiler.export.ruled_tokenizer import Pair
from lmonnx.compiler.export.vocabulary import tokenizer_class
from lmonnx.errors import LmonnxError, StageError

Settings = Mapping[str, Any]


def read_pair(checkpoint: Checkpoint, settings: Settings) -> Pair | None:
    """Return the tokenizers of a checkpoint whose class is one of these, None for all others.

    Raises:
        StageError: A file is missing or damaged, or its ids do not fit the model.
        UnsupportedError: The model is of a kind that is not built here.
    """
    build = _CLASSES.get(tokenizer_class(checkpoint, settings))
    if build is None:
        return None
    try:
        return build(checkpoint, settings)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, LmonnxError):
            raise
        raise StageError(f"tokenizer_config.json or added_tokens.json: {error}") from error


_CLASSES: Mapping[str, Callable[[Checkpoint, Settings], Pair]] = {
    "ByT5Tokenizer": build_byt5,
    "M2M100Tokenizer": build_m2m100,
    "MarianTokenizer": build_marian,
}
