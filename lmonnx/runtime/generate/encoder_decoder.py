"""Sources in, their keys and values out; tokens in, scores out: the two graphs of decision 13."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Generation, GraphSpec
from lmonnx.errors import BundleError, UnsupportedError
from lmonnx.runtime.binding import Binding, BoundSession
from lmonnx.runtime.generate.decoder import open_graph
from lmonnx.runtime.generate.kv_cache import KVCache
from lmonnx.runtime.generate.selection import Ids
from lmonnx.runtime.numerics import Floats
from lmonnx.runtime.session import CPU, MAX_TOKENS, Session, SessionConfig

ENCODER, DECODER = "encoder", "decoder"


@dataclass(slots=True)
class Sources:
    """What the decoder sees of G sources: `lengths` (G,) and (2 L, G, H, S, D) padded arrays."""

    arrays: Floats
    lengths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.lengths)

    def move(self, sources: Sequence[int], targets: Sequence[int], count: int) -> Sources:
        """Put some in the place of others; return the first `count`, no copy of the rest."""
        self.arrays[:, targets] = self.arrays[:, sources]
        self.lengths[targets] = self.lengths[sources]
        return Sources(self.arrays[:, :count], self.lengths[:count])

    @classmethod
    def join(cls, parts: Sequence[Sources]) -> Sources:
        """Return all of several, padded with zeros to the longest."""
        lengths = np.concatenate([part.lengths for part in parts])
        first = parts[0].arrays.shape
        shape = (first[0], len(lengths), first[2], lengths.max(initial=1), first[4])
        arrays = np.zeros(shape, np.float32)
        start = 0
        for part in parts:
            stop, size = start + len(part), min(shape[3], part.arrays.shape[3])
            arrays[:, start:stop, :, :size] = part.arrays[:, :, :, :size]
            start = stop
        return cls(arrays, lengths)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a step gives for each row: `logits` (R, V), and if asked for the k best tokens.

    `top_logprobs` and `top_ids` are (R, k), best first, of a tie the lower id. All are good until
    the next step.
    """

    logits: Floats
    top_logprobs: Floats
    top_ids: Ids


class EncoderDecoder:
    """A bundle's two graphs, and the cache of the decoder's own tokens; for one thread at a time.

    Row r of the cache is a beam of source r // n, where n is the number of beams of all sources.
    """

    def __init__(
        self, encoder: Session, decoder: BoundSession, cache: KVCache, *, vocabulary: int, pad: int
    ) -> None:
        """Decode with two sessions.

        Args:
            encoder: Of the encoder's graph.
            decoder: Of the decoder's.
            cache: A slot a row.
            vocabulary: V.
            pad: The id that fills sources up.
        """
        self._encoder, self._decoder = encoder, decoder
        self._pad = pad
        self._outputs = [f"cross_key_values.{name}" for name in cache.names]
        self.cache = cache
        self.vocabulary = vocabulary
        self._call: _Call | None = None

    def encode(self, sources: Sequence[Sequence[int]]) -> Sources:
        """Read sources, which are best of like length; at most MAX_TOKENS at a time."""
        parts = [self._encode(part) for part in _parts(sources)]
        return parts[0] if len(parts) == 1 else Sources.join(parts)

    def step(
        self, tokens: Ids, lengths: Ids, sources: Sources, top: int, *, first: int = 0
    ) -> Scores:
        """Run one token of each of R rows, from the row `first` on.

        Args:
            tokens: (R,), the last known token of each.
            lengths: (R,), how many tokens of each are in the cache already.
            sources: What they decode, R / n of them.
            top: How many of the best tokens to rank; 0 for none.
            first: Where the rows start.
        """
        call = self._call
        rows = range(first, first + len(tokens))
        if call is None or not call.serves(sources, rows, top):
            call = self._call = _Call(
                self._decoder,
                self.cache,
                sources,
                rows=rows,
                vocabulary=self.vocabulary,
                top=top,
            )
        return call.run(tokens, lengths)

    def _encode(self, sources: Sequence[Sequence[int]]) -> Sources:
        lengths = np.array([len(source) for source in sources], np.int32)
        ids = np.full((len(sources), lengths.max()), self._pad, np.int64)
        for row, source in zip(ids, sources, strict=True):
            row[: len(source)] = source
        outputs = self._encoder.run({"input_ids": ids, "source_lengths": lengths})
        return Sources(np.stack([outputs[name] for name in self._outputs]), lengths)


class _Call:
    """The decoder's graph bound to some rows of the cache and to their sources."""

    def __init__(
        self,
        session: BoundSession,
        cache: KVCache,
        sources: Sources,
        *,
        rows: range,
        vocabulary: int,
        top: int,
    ) -> None:
        self._sources, self._top, self._rows = sources, top, rows
        count = len(rows)
        self._ids = np.zeros((count, 1), np.int64)
        self._lengths = np.zeros(count, np.int32)
        self._longest = np.zeros((), np.int32)
        self._logits = np.empty((count, 1, vocabulary), np.float32)
        self._logprobs = np.empty((count, 1, top), np.float32)
        self._best = np.empty((count, 1, top), np.int64)
        own = cache.view(rows.start, count)
        outputs: dict[str, NDArray[Any]] = {
            "logits": self._logits,
            **{f"present.{n}": a for n, a in own.items()},
        }
        if top:
            outputs |= {"top_logprobs": self._logprobs, "top_ids": self._best}
        self._binding: Binding = session.bind(
            {
                "input_ids": self._ids,
                "seqlens_k": self._lengths,
                "total_sequence_length": self._longest,
                "logits_to_keep": np.ones((), np.int64),
                "top_k": np.array(top, np.int64),
                "source_lengths": sources.lengths,
                **{f"past_key_values.{n}": a for n, a in own.items()},
                **{f"cross_key_values.{n}": a for n, a in zip(own, sources.arrays, strict=True)},
            },
            outputs,
        )

    def serves(self, sources: Sources, rows: range, top: int) -> bool:
        return self._sources is sources and self._rows == rows and self._top == top

    def run(self, tokens: Ids, lengths: Ids) -> Scores:
        self._ids[:, 0] = tokens
        self._lengths[:] = lengths
        self._longest[()] = lengths.max() + 1
        self._binding.run()
        return Scores(self._logits[:, 0], self._logprobs[:, 0], self._best[:, 0])


def open_pair(bundle: Bundle, config: SessionConfig) -> tuple[Session, BoundSession]:
    """Load a bundle's encoder and decoder.

    Raises:
        BundleError: One is missing, or onnxruntime cannot load it.
        UnsupportedError: Another provider than the CPU is asked for.
    """
    if config.providers != (CPU,):
        raise UnsupportedError(
            f"encoder-decoders run on {CPU} only, not on {config.providers[0]}; leave providers out"
        )
    graphs = bundle.manifest.graphs
    return (
        open_graph(bundle, graphs[ENCODER], config),
        open_graph(bundle, graphs[DECODER], config),
    )


def check_pair(bundle: Bundle) -> Generation:
    """Return what a bundle says of generation, once its graphs have the inputs that it implies.

    Raises:
        BundleError: It is no encoder-decoder, or its caches have other names or shapes.
    """
    generation, graphs = bundle.manifest.generation, bundle.manifest.graphs
    if generation is None or generation.seq2seq is None or not {ENCODER, DECODER} <= graphs.keys():
        raise BundleError(f"{bundle.path} is no encoder-decoder; export the checkpoint again")
    cache = generation.cache
    if min(cache.layers, cache.heads, cache.head_size, generation.context) < 1:
        raise BundleError(f"{bundle.path}: its cache or context has no size; export it again")
    names = [f"{i}.{part}" for i in range(cache.layers) for part in ("key", "value")]
    cross, past, present = (
        [f"{kind}.{name}" for name in names]
        for kind in ("cross_key_values", "past_key_values", "present")
    )
    _check(bundle, ENCODER, ["input_ids", "source_lengths"], cross)
    _check(
        bundle,
        DECODER,
        [
            "input_ids", "seqlens_k", "total_sequence_length", "logits_to_keep", "top_k",
            "source_lengths", *cross, *past,
        ],
        ["logits", "top_logprobs", "top_ids", *present],
    )  # fmt: skip
    for tensor in (*graphs[ENCODER].outputs, *graphs[DECODER].inputs):
        sized = tensor.name in cross or tensor.name in past
        if sized and (
            len(tensor.shape) != 4 or tensor.shape[1::2] != (cache.heads, cache.head_size)
        ):
            raise BundleError(f"{bundle.path}: {tensor.name} is not (rows, H, T, D)")
    logits = next(tensor for tensor in graphs[DECODER].outputs if tensor.name == "logits")
    if logits.shape[-1] != generation.vocabulary:
        raise BundleError(f"{bundle.path}: the decoder gives other logits than are said")
    return generation


def _check(bundle: Bundle, role: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    graph: GraphSpec = bundle.manifest.graphs[role]
    given = ({tensor.name for tensor in graph.inputs}, {tensor.name for tensor in graph.outputs})
    if given != (set(inputs), set(outputs)):
        raise BundleError(f"{bundle.path}: graph {role} has not an {role}'s inputs and outputs")


def _parts(sources: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
    """Yield runs of sources in their order, each of at most MAX_TOKENS, padding included."""
    start = longest = 0
    for place, source in enumerate(sources):
        longest = max(longest, len(source))
        if place > start and (place + 1 - start) * longest > MAX_TOKENS:
            yield sources[start:place]
            start, longest = place, len(source)
    yield sources[start:]
