"""A decoder that was not built here is held to itself: in steps, in chunks and in company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import CacheSpec, GraphSpec, Precision
from lmonnx.errors import BundleError, ParityError, UnsupportedError
from lmonnx.measure.parity import FLOAT32_TOLERANCE
from lmonnx.runtime.binding import BoundSession
from lmonnx.runtime.generate.decoder import MODEL, Decoder
from lmonnx.runtime.generate.kv_cache import KVCache
from lmonnx.runtime.session import SessionConfig

TEXTS, LENGTH = 3, 32
UNSET = 1e4  # what is in the cache beyond a row's end must not matter
# Of the logits' range. Activations that share a scale differ with what else there is.
TOLERANCES = {
    Precision.FLOAT32: FLOAT32_TOLERANCE,
    Precision.FLOAT16: 0.01,
    Precision.INT8: 0.05,
    Precision.INT4: 0.05,
}
_WAY_OUT = "take another variant, or export the checkpoint with another engine"

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


def check_steps(
    path: Path,
    spec: GraphSpec,
    cache: CacheSpec,
    *,
    vocabulary: int,
    context: int,
    precision: Precision,
) -> float:
    """Return how far the logits of texts are from the same texts' in chunks and ragged batches.

    Args:
        path: The graph, as decision 11 has it.
        spec: Its inputs and outputs.
        cache: What it reads and writes; all of it holds UNSET before.
        vocabulary: V.
        context: The most tokens that it takes.
        precision: Of its weights.

    Raises:
        UnsupportedError: onnxruntime cannot run the graph so.
        ParityError: They differ; share of the logits' range.
    """
    ids = np.random.default_rng(0).integers(0, vocabulary, (TEXTS, min(LENGTH, context)))
    try:
        whole, parts = _answers(path, spec, cache, ids, vocabulary)
    except BundleError as error:
        raise UnsupportedError(
            f"the graph does not run with a cache: {error}; {_WAY_OUT}"
        ) from error
    spread = float(np.ptp(whole)) or 1.0
    difference = float(np.abs(np.where(np.isnan(parts), whole, parts) - whole).max()) / spread
    if not difference <= TOLERANCES[precision]:
        raise ParityError(
            f"in steps and batches the graph's logits are {difference:.1e} of their range from "
            f"those of the same texts at once; {_WAY_OUT}"
        )
    return difference


def _answers(
    path: Path, spec: GraphSpec, cache: CacheSpec, ids: Ids, vocabulary: int
) -> tuple[Logits, Logits]:
    """Return the logits (texts, S, V) of whole texts alone, and of chunks and steps together.

    Of the second, what was not asked for is NaN.
    """
    texts, length = ids.shape
    kept = KVCache(cache, texts, length)
    decoder = Decoder(
        {MODEL: BoundSession(path, spec, SessionConfig())}, kept, vocabulary=vocabulary
    )
    _unset(kept)
    rows = [decoder.extend(0, row.tolist(), 0, keep=length, company=None).copy() for row in ids]
    whole = np.stack(rows)
    parts = np.full_like(whole, np.nan)
    _unset(kept)
    lengths = [1 + (length - 2) * slot // texts for slot in range(texts)]  # ragged
    for slot, end in enumerate(lengths):
        half = end // 2
        if half:
            decoder.extend(slot, ids[slot, :half].tolist(), 0, keep=0, company=None)
        chunk = ids[slot, half:end].tolist()
        parts[slot, half:end] = decoder.extend(slot, chunk, half, keep=len(chunk), company=None)
    while max(lengths) < length:
        at = np.arange(texts), np.array(lengths)
        parts[at] = decoder.step(ids[at].tolist(), lengths)
        lengths = [each + 1 for each in lengths]
    return whole, parts


def _unset(cache: KVCache) -> None:
    for array in cache.view(0, cache.slots).values():
        array[:] = UNSET
