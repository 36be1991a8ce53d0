"""Text that a decoder writes itself: what it was trained on in small, and nobody's licence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError
from lmonnx.progress import Progress, track
from lmonnx.runtime.binding import BoundSession
from lmonnx.runtime.session import SessionConfig

ROWS, LENGTH = 16, 384
_TINY = np.finfo(np.float32).tiny

Ids = NDArray[np.int64]


def write_text(
    bundle: Bundle, *, rows: int = ROWS, length: int = LENGTH, seed: int = 0, progress: Progress
) -> list[Ids]:
    """Sample ids from a decoder at temperature 1, its first token drawn from all; (length,) a row.

    Args:
        bundle: The decoder; its graph `model` is run.
        rows: How many texts, written side by side.
        length: Tokens of each, at most what the model takes.
        seed: The same gives the same text on the same machine.
        progress: Told after every token.
    """
    generation = bundle.manifest.generation
    if generation is None:
        raise BundleError(f"{bundle.path} is no decoder, so it writes no text")
    length = min(length, generation.context)
    random = np.random.default_rng(seed)
    cache, spec = generation.cache, bundle.manifest.graphs["model"]
    shape = (rows, cache.heads, length, cache.head_size)
    names = [f"{layer}.{part}" for layer in range(cache.layers) for part in ("key", "value")]
    held = {name: np.zeros(shape, np.float32) for name in names}
    ids = np.empty((rows, length), np.int64)
    ids[:, 0] = random.integers(generation.vocabulary, size=rows)
    inputs: dict[str, NDArray[Any]] = {
        "input_ids": ids[:, :1].copy(),
        "seqlens_k": np.zeros(rows, np.int32),
        "total_sequence_length": np.array(1, np.int32),
        "logits_to_keep": np.array(1, np.int64),
    }
    logits = np.empty((rows, 1, generation.vocabulary), np.float32)
    session = BoundSession(bundle.file(spec.file), spec, SessionConfig())
    binding = session.bind(
        inputs | {f"past_key_values.{name}": array for name, array in held.items()},
        {"logits": logits} | {f"present.{name}": array for name, array in held.items()},
    )
    for place in track(range(1, length), "writing text", progress):
        binding.run()
        ids[:, place] = draw(logits[:, 0], random)
        inputs["input_ids"][:, 0] = ids[:, place]
        inputs["seqlens_k"][:] = place
        inputs["total_sequence_length"][...] = place + 1
    return list(ids)


def draw(logits: NDArray[np.float32], random: np.random.Generator) -> Ids:
    """Draw a token a row by its probability: (B, V) → (B,).

    Source:
        The Gumbel-max trick: Gumbel, "Statistical theory of extreme values" (1954).
    """
    noise = np.maximum(random.standard_exponential(logits.shape, np.float32), _TINY)
    drawn: Ids = (logits - np.log(noise)).argmax(axis=1)
    return drawn
