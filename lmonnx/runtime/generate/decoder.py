"""Tokens in, logits out: a bundle's graphs over one cache, as docs/decisions/0011 says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Generation, GraphSpec
from lmonnx.errors import BundleError, UnsupportedError
from lmonnx.runtime.binding import Binding, BoundSession
from lmonnx.runtime.generate.kv_cache import KVCache
from lmonnx.runtime.kernels import int8_is_exact
from lmonnx.runtime.session import CPU, SessionConfig
from lmonnx.runtime.tuned import default_lone_rows

Logits = NDArray[np.float32]
MODEL, LONE, PROMPT = "model", "lone", "prompt"
# Logits of more tokens than a draft's are not held on to between calls.
MOST_HELD = 65
INTEGER = frozenset({"MatMulInteger", "MatMulIntegerToFloat"})


class Call:
    """A graph bound to some slots of the cache, and to the arrays of one call's size."""

    def __init__(self, session: BoundSession, cache: KVCache, first: int, count: int) -> None:
        self.lengths = np.zeros(count, np.int32)  # (B,)
        self.longest = np.zeros((), np.int32)
        self.keep = np.zeros((), np.int64)
        view = cache.view(first, count)
        self._binding: Binding = session.bind(
            {
                "seqlens_k": self.lengths,
                "total_sequence_length": self.longest,
                "logits_to_keep": self.keep,
                **{f"past_key_values.{name}": array for name, array in view.items()},
            },
            {f"present.{name}": array for name, array in view.items()},
        )

    def resize(self, ids: NDArray[np.int64], logits: Logits) -> None:
        """Take other arrays: ids (B, S), logits (B, kept, V)."""
        self.ids, self.logits = ids, logits
        self.keep[()] = logits.shape[1]
        self._binding.rebind({"input_ids": ids}, {"logits": logits})

    def run(self) -> Logits:
        """Run the graph; `lengths` must hold each row's tokens after this call, less 1."""
        self.longest[()] = self.lengths.max() + 1
        self._binding.run()
        return self.logits


class Decoder:
    """A bundle's decoder graphs and the cache that they share; for one thread at a time."""

    def __init__(
        self,
        sessions: Mapping[str, BoundSession],
        cache: KVCache,
        *,
        vocabulary: int,
        lone_rows: int | None = None,
    ) -> None:
        """Decode with some sessions.

        Args:
            sessions: By role: `model`, and if there are, `lone` for few rows and `prompt` for
                prompts.
            cache: What they share.
            vocabulary: V.
            lone_rows: Up to how many rows `lone` is taken, drafts of one included; None depends on
                the CPU.
        """
        self._sessions = sessions
        self._reading = PROMPT if PROMPT in sessions else MODEL
        self._lone_rows = default_lone_rows() if lone_rows is None else lone_rows
        self.cache = cache
        self.vocabulary = vocabulary
        self._steps: dict[int, Call] = {}
        self._runs: dict[tuple[str, int], Call] = {}

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Logits:
        """Run one token of each of the first B slots.

        Args:
            tokens: (B,), the last known token of each.
            lengths: (B,), how many tokens of each are in the cache already.

        Returns:
            (B, V), good until the next call.
        """
        count = len(tokens)
        call = self._steps.get(count)
        if call is None:
            call = self._steps[count] = self._call(self._role(count), 0, count)
            call.resize(np.zeros((count, 1), np.int64), self._room(count, 1))
        call.ids[:, 0] = tokens
        call.lengths[:] = lengths
        logits: Logits = call.run()[:, 0]
        return logits

    def extend(
        self, slot: int, tokens: Sequence[int], length: int, *, keep: int, company: int | None
    ) -> Logits:
        """Run several tokens of one slot.

        Args:
            slot: Which.
            tokens: (S,), what follows the tokens that it holds.
            length: How many it holds.
            keep: The logits of how many of the last tokens are wanted.
            company: How many sequences are decoded at this time, where the answer must be that
                of `step`; None for a prompt.

        Returns:
            (keep, V).
        """
        role = self._reading if company is None else self._role(company)
        call = self._runs.get((role, slot))
        if call is None:
            call = self._runs[role, slot] = self._call(role, slot, 1)
        call.resize(np.array([tokens], np.int64), self._room(1, keep))
        call.lengths[0] = length + len(tokens) - 1
        logits: Logits = call.run()[0]
        if keep > MOST_HELD:
            call.resize(call.ids, self._room(1, 0))
        return logits

    def _role(self, rows: int) -> str:
        return LONE if rows <= self._lone_rows and LONE in self._sessions else MODEL

    def _call(self, role: str, first: int, count: int) -> Call:
        return Call(self._sessions[role], self.cache, first, count)

    def _room(self, rows: int, keep: int) -> Logits:
        return np.empty((rows, keep, self.vocabulary), np.float32)


def open_sessions(bundle: Bundle, config: SessionConfig) -> dict[str, BoundSession]:
    """Load a bundle's decoder graphs by role.

    Raises:
        BundleError: There is no graph called `model`, or onnxruntime cannot load one.
        UnsupportedError: Another provider than the CPU is asked for.
    """
    if config.providers != (CPU,):
        raise UnsupportedError(
            f"decoders run on {CPU} only, not on {config.providers[0]}; leave providers out"
        )
    graphs = bundle.manifest.graphs
    if MODEL not in graphs:
        raise BundleError(f"{bundle.path} has no graph called {MODEL}; export it again")
    left_out = () if config.reads_in_int8(bundle.bytes) else (PROMPT,)
    roles = [role for role in (PROMPT, MODEL, LONE) if role in graphs and role not in left_out]
    with ThreadPoolExecutor(config.threads_used) as pool:
        several = len(roles) > 1
        opened = pool.map(
            lambda role: open_graph(bundle, graphs[role], config, in_turn=several), roles
        )
        return dict(zip(roles, opened, strict=True))


def open_graph(
    bundle: Bundle, graph: GraphSpec, config: SessionConfig, *, in_turn: bool = False
) -> BoundSession:
    """Load a graph; int8 products are widened where the CPU's kernel is wrong."""
    integers = not INTEGER.isdisjoint(graph.operators)
    precise = integers and (config.wide_int8 or not int8_is_exact())
    path = bundle.file(graph.file)
    return BoundSession(path, graph, config, precise=precise, in_turn=in_turn)


def check_cache(bundle: Bundle) -> Generation:
    """Return what a bundle says of generation, once its graphs have the inputs that it implies.

    Raises:
        BundleError: It is no decoder, or its cache has other names or shapes.
    """
    generation = bundle.manifest.generation
    if generation is None:
        raise BundleError(f"{bundle.path} says nothing of generation; export it again")
    cache = generation.cache
    if min(cache.layers, cache.heads, cache.head_size, generation.context) < 1:
        raise BundleError(f"{bundle.path}: its cache or context has no size; export it again")
    names = {f"{i}.{part}" for i in range(cache.layers) for part in ("key", "value")}
    wanted = {"input_ids", "seqlens_k", "total_sequence_length", "logits_to_keep"}
    wanted |= {f"past_key_values.{name}" for name in names}
    for role, graph in bundle.manifest.graphs.items():
        inputs = {tensor.name: tensor for tensor in graph.inputs}
        outputs = {tensor.name: tensor for tensor in graph.outputs}
        if inputs.keys() != wanted or outputs.keys() != {"logits"} | {
            f"present.{n}" for n in names
        }:
            raise BundleError(f"{bundle.path}: graph {role} has not a decoder's inputs and outputs")
        for name in names:
            shape = inputs[f"past_key_values.{name}"].shape
            if len(shape) != 4 or (shape[1], shape[3]) != (cache.heads, cache.head_size):
                raise BundleError(f"{bundle.path}: {name} of graph {role} is not (B, K, T, D)")
        if outputs["logits"].shape[-1] != generation.vocabulary:
            raise BundleError(f"{bundle.path}: graph {role} gives other logits than are said")
    return generation
