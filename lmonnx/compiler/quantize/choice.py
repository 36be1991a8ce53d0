"""How a decoder, or an encoder-decoder, is to be quantized: what was asked for, all filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lmonnx.compiler.quantize.blocks import BITS, BLOCK_SIZES
from lmonnx.compiler.quantize.recipes import (
    BLOCKS,
    DROPS,
    HEAD_BITS,
    LABELLED_DROPS,
    PAIR_DROPS,
    Method,
)
from lmonnx.errors import InputError


@dataclass(frozen=True, slots=True)
class Choice:
    """A method with its options.

    `limit` is how much perplexity may rise, as a share; `int8_prompts` asks for a graph that reads
    prompts by rows, of the weights that the one in blocks has.
    """

    method: Method
    bits: int
    block_size: int
    head_bits: int
    limit: float
    calibrate: bool
    int8_prompts: bool

    @property
    def options(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        stated: dict[str, Any] = {
            "method": self.method.value,
            "max_drop": self.limit,
            "calibrate": self.calibrate,
        }
        if self.method is not Method.DYNAMIC:
            stated |= {
                "bits": self.bits,
                "block_size": self.block_size,
                "head_bits": self.head_bits,
                "int8_prompts": self.int8_prompts,
            }
        return stated


@dataclass(frozen=True, slots=True)
class Asked:
    """The options as they were given; None leaves the choice to the method or the model."""

    method: str | None = None
    bits: int | None = None
    block_size: int | None = None
    head_bits: int = HEAD_BITS
    max_drop: float | None = None
    calibrate: bool = field(default=True, kw_only=True)
    int8_prompts: bool = field(default=True, kw_only=True)

    def of_decoder(self) -> Choice:
        """Return the choice for a decoder, whose lone row reads every weight once a token."""
        choice = self._filled(Method(self.method or Method.WEIGHT_ONLY), DROPS)
        # Eight bits would lose by it; and by rows nothing is good without calibration.
        fits = choice.method is Method.WEIGHT_ONLY and choice.bits == 4 and choice.calibrate
        return replace(choice, int8_prompts=fits and self.int8_prompts)

    def of_pair(self, *, labelled: bool) -> Choice:
        """Return the choice for an encoder-decoder, which has many rows at once.

        Args:
            labelled: That the drop is of the task's figure.

        Raises:
            InputError: It cannot be had.
        """
        usual = Method.DYNAMIC if self.bits is None else Method.WEIGHT_ONLY
        method = Method(self.method or usual)
        if method is Method.BOTH:
            raise InputError("method both is for decoders; give dynamic or weight-only")
        return self._filled(method, LABELLED_DROPS if labelled else PAIR_DROPS)

    def _filled(self, method: Method, drops: Mapping[tuple[Method, int], float]) -> Choice:
        bits = 4 if self.bits is None else self.bits
        size = BLOCKS.get(bits, BLOCKS[4]) if self.block_size is None else self.block_size
        for name, value, allowed in (
            ("bits", bits, BITS),
            ("block_size", size, BLOCK_SIZES),
            ("head_bits", self.head_bits, BITS),
        ):
            if value not in allowed:
                stated = ", ".join(map(str, allowed))
                raise InputError(f"{name} is {value}, must be one of {stated}")
        limit = drops[method, bits] if self.max_drop is None else self.max_drop
        return Choice(method, bits, size, self.head_bits, limit, self.calibrate, int8_prompts=False)
