"""A bundle's answers against its checkpoint's, live."""

from __future__ import annotations

from collections.abc import Sequence

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Parity, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.reference import reference_answers
from lmonnx.compiler.token_types import missing_type
from lmonnx.compiler.verify_pairs import verify_pairs
from lmonnx.measure.next_logits import raw_models
from lmonnx.measure.parity import Golden, worst_parity
from lmonnx.measure.sentences import fit, parity_sentences
from lmonnx.progress import Progress, silent
from lmonnx.runtime.tokenizer import Text, Tokenizer


def verify_against(
    bundle: Bundle, checkpoint: Checkpoint, *, progress: Progress = silent
) -> Parity:
    """Return how far a bundle is from its checkpoint on 100 sentences of mixed length.

    A text classifier that can read pairs reads a quarter of them as pairs. An encoder-decoder
    writes answers to some of them, see `verify_pairs`.

    Raises:
        UnsupportedError: transformers is not installed.
        StageError: transformers cannot load the checkpoint, or fails on it.
        ParityError: They are not of one model.
    """
    generation = bundle.manifest.generation
    if generation is not None and generation.seq2seq is not None:
        return verify_pairs(bundle, checkpoint, progress=progress)
    models = raw_models(bundle)
    texts = tuple(fit(parity_sentences(), bundle.manifest))
    if bundle.manifest.task is Task.TEXT_CLASSIFICATION and _reads_pairs(bundle, checkpoint):
        texts = _paired(texts)
    progress("reference", 0, 2)
    reference = reference_answers(checkpoint, texts, model=models[0])
    progress("reference", 1, 2)
    golden = Golden(f"transformers on {checkpoint.repo}", texts, reference)
    parity = worst_parity(models, golden)
    progress("reference", 2, 2)
    return parity


def _reads_pairs(bundle: Bundle, checkpoint: Checkpoint) -> bool:
    """Say whether the tokenizer marks where a second text begins, and the model can read it."""
    text = bundle.manifest.text
    tokenizer = Tokenizer(bundle.file(text.source.file), text)
    if tokenizer.room(pair=True) == tokenizer.room(pair=False):
        return False
    return missing_type(checkpoint, tokenizer, text) is None


def _paired(texts: Sequence[Text]) -> tuple[Text, ...]:
    """Put before every fourth text the one before it, which is about as long."""
    return tuple(
        (str(texts[row - 1]), str(text)) if row % 4 == 3 else text for row, text in enumerate(texts)
    )
