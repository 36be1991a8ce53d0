"""What a traced decoder does with its caches, masks and places, so that it can be rewritten.

Its form is read from its nodes; what its masks and factors are is found by running what makes them,
so that it does not matter how a version of an exporter writes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.compiler.export.adopt_attention import Attention, find_attentions
from lmonnx.compiler.export.adopt_pair_decoder import KINDS, Layer, Traced
from lmonnx.compiler.export.adopt_places import Trial, find_lookups
from lmonnx.compiler.export.adopt_probe import Probe
from lmonnx.errors import UnsupportedError

WAY_OUT = "take another export"
_STEP = 8  # heads of onnxruntime's GroupQueryAttention come in these
_MASKED = -1e4  # what is added to a score that is to count for nothing is less
_LENGTHS = ((1, 5), (1, 9), (3, 0))  # tokens and their past, of the trials
_SOURCE = 4  # tokens of the trials' sources, of which the last ones are padding
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Form:
    """The sizes of a traced decoder: L layers, H heads of D, V words, E wide sources."""

    layers: int
    heads: int
    size: int
    vocabulary: int
    width: int

    @property
    def cache(self) -> CacheSpec:
        """Return the cache of the rewritten graph, whose heads its kernel takes."""
        return CacheSpec(self.layers, self.heads, -(-self.size // _STEP) * _STEP)


def read_decoder(
    model: onnx.ModelProto, form: Form, folder: Path, pad: int | None, where: str
) -> Traced:
    """Return what is in a traced decoder with a past.

    Args:
        model: Its constants are initializers, each once.
        form: Its sizes.
        folder: What its weights are in.
        pad: The id that is no token to count; None is none.
        where: What it is called in errors.

    Raises:
        UnsupportedError: Something has a form that cannot be rewritten; the message says what.
    """
    caches = _caches(model.graph, form, where)
    names = {f"{c.layer}.{c.side}.{c.kind}": c for c in caches}
    attentions = _by_layer(model.graph, names, form, where)
    trials = [_trial(form, pad, *lengths) for lengths in _LENGTHS]
    probe = _Additions(model, folder, attentions, trials, where)
    layers = [
        (
            Layer(
                own,
                probe.scale(own),
                probe.bias(own, index),
                tuple(names[f"{index}.decoder.{kind}"].new for kind in KINDS),
            ),
            Layer(cross, probe.scale(cross), probe.only_masks(cross, index)),
        )
        for index, (own, cross) in enumerate(attentions)
    ]
    pasts = {name: name == c.whole for c in caches for name in (c.past, c.whole)}
    return Traced(
        model=model,
        cache=form.cache,
        size=form.size,
        layers=layers,
        lookups=find_lookups(model, folder, trials, where),
        pasts={name: new for name, new in pasts.items() if ".encoder." not in name},
        width=form.width,
    )


@dataclass(frozen=True, slots=True)
class _Cache:
    """One cache of a traced graph: its past, what is appended to it, and both."""

    layer: int
    side: str  # "decoder" is its own
    kind: str
    past: str
    new: str
    whole: str


def _caches(graph: onnx.GraphProto, form: Form, where: str) -> list[_Cache]:
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    found = []
    for layer in range(form.layers):
        for kind in KINDS:
            past = f"past_key_values.{layer}.encoder.{kind}"
            found.append(_Cache(layer, "encoder", kind, past, "", past))
            past = f"past_key_values.{layer}.decoder.{kind}"
            joins = [node for node in users.get(past, []) if _appends(node, past)]
            if len(joins) != 1:
                raise UnsupportedError(
                    f"{where}: nothing appends new tokens to {past} on its third axis; {WAY_OUT}"
                )
            (join,) = joins
            found.append(_Cache(layer, "decoder", kind, past, join.input[1], join.output[0]))
    return found


def _appends(node: onnx.NodeProto, past: str) -> bool:
    axis = next((each.i for each in node.attribute if each.name == "axis"), None)
    whole = node.op_type == "Concat" and len(node.input) == 2 and node.input[0] == past
    return whole and axis in {2, -2}


def _by_layer(
    graph: onnx.GraphProto, caches: Mapping[str, _Cache], form: Form, where: str
) -> list[tuple[Attention, Attention]]:
    """Return each layer's self and cross attention."""
    found: dict[tuple[str, str], list[Attention]] = {}
    for each in find_attentions(graph, {cache.whole for cache in caches.values()}):
        found.setdefault((each.keys, each.values), []).append(each)

    def one(layer: int, side: str) -> Attention:
        key, value = (caches[f"{layer}.{side}.{kind}"].whole for kind in KINDS)
        seen = found.get((key, value), [])
        if len(seen) != 1:
            raise UnsupportedError(
                f"{where}: the attention of layer {layer} over its {side} cache is not "
                f"softmax(query·keyᵀ + mask)·value in nodes that are known here; {WAY_OUT}"
            )
        return seen[0]

    return [(one(layer, "decoder"), one(layer, "encoder")) for layer in range(form.layers)]


def _trial(form: Form, pad: int | None, length: int, past: int) -> Trial:
    """Return inputs of two rows, the second's source padded."""
    dice = np.random.default_rng(length + past)
    known = np.setdiff1d(np.arange(form.vocabulary), [] if pad is None else [pad])
    mask = np.ones((2, _SOURCE), np.int64)
    mask[1, _SOURCE // 2 :] = 0
    inputs: dict[str, NDArray[Any]] = {
        "input_ids": dice.choice(known, (2, length)),
        "encoder_attention_mask": mask,
        "encoder_hidden_states": np.zeros((2, _SOURCE, form.width), np.float32),
    }
    for layer in range(form.layers):
        for kind in KINDS:
            for side, tokens in (("decoder", past), ("encoder", _SOURCE)):
                shape = (2, form.heads, tokens, form.size)
                inputs[f"past_key_values.{layer}.{side}.{kind}"] = np.zeros(shape, np.float32)
    return Trial(inputs, past)


class _Additions:
    """What scores are scaled by, and what is added to them, in all trials."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        attentions: Sequence[tuple[Attention, Attention]],
        trials: Sequence[Trial],
        where: str,
    ) -> None:
        every = [each for pair in attentions for each in pair]
        names = {name: TensorProto.FLOAT for each in every for name in each.added}
        names |= {by.value: TensorProto.FLOAT for each in every for by in each.factors}
        probe = Probe(model, folder, names) if names else None
        self._found: list[Arrays] = [probe.run(t.inputs) if probe else {} for t in trials]
        self._trials, self._where = trials, where

    def scale(self, attention: Attention) -> float:
        """Return what the product of query and key is multiplied by."""
        scale = 1.0
        for factor in attention.factors:
            values = {float(v) for found in self._found for v in found[factor.value].ravel()}
            if len(values) != 1 or not all(math.isfinite(v) and v for v in values):
                raise UnsupportedError(
                    f"{self._where}: scores are scaled by {factor.value}, which is not one number; "
                    f"{WAY_OUT}"
                )
            (value,) = values
            scale *= 1 / value if factor.divides else value
        return scale

    def bias(self, attention: Attention, layer: int) -> str:
        """Return what is added to scores of earlier tokens; "" where that is nothing."""
        biases = []
        for name in attention.added:
            for trial, array in self._of(name):
                length = trial.tokens.shape[1]
                places = np.arange(trial.past + length)
                seen = places <= (trial.past + np.arange(length))[:, None]  # (Q, P + Q)
                if not _fits(array, seen.shape):
                    raise self._refusal(name, layer, "is not (rows, heads, Q, P + Q)")
                if not ((array == 0) | ~seen).all():
                    biases.append(name)
                    if array.shape[2:] != seen.shape or (array != array[:1]).any():
                        raise self._refusal(name, layer, "differs by more than head and place")
        if len(set(biases)) > 1:
            raise self._refusal(biases[0], layer, "is not the only bias")
        return next(iter(biases), "")

    def only_masks(self, attention: Attention, layer: int) -> str:
        """Return "", once what is added to scores of a source is seen to mask its padding alone."""
        for name in attention.added:
            for trial, array in self._of(name):
                mask = trial.inputs["encoder_attention_mask"][:, None, None, :]  # (rows, 1, 1, S)
                if not _fits(array, (trial.tokens.shape[1], mask.shape[3])):
                    raise self._refusal(name, layer, "is not (rows, heads, Q, S)")
                # A whole row of padding would have to be seen: nothing else is added to it.
                if not np.where(mask == 1, array == 0, array <= _MASKED).all():
                    raise self._refusal(name, layer, "does more than mask the padding of sources")
        return ""

    def _of(self, name: str) -> Iterator[tuple[Trial, NDArray[Any]]]:
        for trial, found in zip(self._trials, self._found, strict=True):
            yield trial, found[name]

    def _refusal(self, name: str, layer: int, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self._where}: {name}, which is added to the scores of layer {layer}, {what}; "
            f"{WAY_OUT}"
        )


def _fits(array: NDArray[Any], shape: tuple[int, int]) -> bool:
    return array.ndim == 4 and all(
        size in {1, wanted} for size, wanted in zip(array.shape[2:], shape, strict=True)
    )
