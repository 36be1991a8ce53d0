"""DECODERS: which `model_type` is read by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders import gemma, gpt2, gpt_neox, llama
from lmonnx.compiler.export.native.decoders.plan import Decoder


@dataclass(frozen=True, slots=True)
class DecoderFamily:
    """How one `model_type` is read.

    Attributes:
        read: From config.json.
        prefix: May stand before the tensors' names.
        base: What they begin with, but where the model was saved without its head.
    """

    read: Callable[[Config], Decoder]
    prefix: str = ""
    base: str = "model."


DECODERS: Mapping[str, DecoderFamily] = {
    "gemma": DecoderFamily(gemma.read_gemma),
    "gemma2": DecoderFamily(gemma.read_gemma2),
    "gemma3_text": DecoderFamily(gemma.read_gemma3),
    "gpt2": DecoderFamily(gpt2.read_gpt2, prefix="transformer.", base=""),
    "gpt_neox": DecoderFamily(gpt_neox.read_gpt_neox, base="gpt_neox."),
    "granite": DecoderFamily(llama.read_granite),
    "llama": DecoderFamily(llama.read_llama),
    "mistral": DecoderFamily(llama.read_mistral),
    "phi3": DecoderFamily(llama.read_phi3),
    "qwen2": DecoderFamily(llama.read_qwen2),
    "qwen3": DecoderFamily(llama.read_qwen3),
    "smollm3": DecoderFamily(llama.read_smollm3),
}
