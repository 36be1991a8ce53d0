"""A bundle's answers against its checkpoint's, live."""

from __future__ import annotations

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Parity
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.reference import reference_logits
from lmonnx.measure.parity import Golden, measure_parity
from lmonnx.measure.sentences import parity_sentences
from lmonnx.progress import Progress, silent
from lmonnx.runtime.pipelines.text_classification import TextClassifier


def verify_against(
    bundle: Bundle, checkpoint: Checkpoint, *, progress: Progress = silent
) -> Parity:
    """Return how far a bundle is from its checkpoint on 100 sentences of mixed length.

    Raises:
        UnsupportedError: transformers is not installed.
        ParityError: They are not of one model.
    """
    texts = tuple(parity_sentences())
    progress("reference", 0, 2)
    reference = reference_logits(checkpoint, texts, text=bundle.manifest.text)
    progress("reference", 1, 2)
    golden = Golden(f"transformers on {checkpoint.repo}", texts, reference)
    parity = measure_parity(TextClassifier(bundle), golden)
    progress("reference", 2, 2)
    return parity
