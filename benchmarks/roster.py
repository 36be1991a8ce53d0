"""Every contender: its script, the environment it runs in, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from materials import Materials


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table; `bundle` names one of materials.STAGES."""

    name: str
    script: str
    environment: str
    title: str
    bundle: str = ""
    takes_graphs: bool = False

    def order(self, materials: Materials) -> dict[str, Any]:
        """Return this contender's part of the order: the files made for it."""
        return {
            "model": str(materials.checkpoint),
            "cache": str(materials.cache),
            "bundle": str(materials.bundle(self.bundle)) if self.bundle else "",
            "graphs": materials.graphs() if self.takes_graphs else {},
        }


_ALL = (
    Contender(
        "transformers-pipeline",
        "transformers_pipeline",
        "transformers",
        "transformers pipeline, torch fp32",
    ),
    Contender("optimum-pipeline", "optimum_pipeline", "optimum", "optimum ORTModel pipeline, fp32"),
    Contender("torch-fp32", "torch_fp32", "transformers", "torch fp32"),
    Contender("ctranslate2-int8", "ctranslate2_int8", "ctranslate2", "CTranslate2 int8"),
    Contender(
        "sentence-transformers",
        "sentence_transformers_encode",
        "sentence-transformers",
        "sentence-transformers, torch fp32",
    ),
    # The same weights in the same float32 graph: its file is the bundle's.
    Contender("fastembed", "fastembed_custom", "fastembed", "fastembed, fp32", bundle="fp32"),
    Contender(
        "onnxruntime-quantize-dynamic",
        "onnxruntime_quantize_dynamic",
        "onnxruntime",
        "onnxruntime on quantize_dynamic",
        takes_graphs=True,
    ),
    Contender("lmonnx-fp32", "lmonnx_bundle", "lmonnx", "lmonnx fp32", bundle="opt"),
    Contender("lmonnx-int8", "lmonnx_bundle", "lmonnx", "lmonnx int8, row-wise", bundle="int8"),
    Contender(
        "lmonnx-int8-tensor",
        "lmonnx_bundle",
        "lmonnx",
        "lmonnx int8, per tensor",
        bundle="int8-tensor",
    ),
)

CONTENDERS = {contender.name: contender for contender in _ALL}
