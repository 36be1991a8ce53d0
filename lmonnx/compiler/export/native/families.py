"""FAMILIES: which `model_type` is built by which function, and what its graph takes in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.export.native import (
    albert,
    bert,
    deberta,
    distilbert,
    electra,
    modernbert,
    mpnet,
)
from lmonnx.compiler.export.native.blocks import Scope
from lmonnx.compiler.export.native.config import Config

Build = Callable[[Scope, Config, int], str]


@dataclass(frozen=True, slots=True)
class Family:
    """How one `model_type` is exported.

    `heads` gives the builder of each task; `prefix` is the base model's in the checkpoint;
    positions start after the padding id where `offset_positions` is set.
    """

    prefix: str
    inputs: tuple[str, ...]
    heads: Mapping[Task, Build]
    positions: str = "max_position_embeddings"
    offset_positions: bool = False


_TWO = ("input_ids", "attention_mask")
_THREE = (*_TWO, "token_type_ids")
_ROBERTA = Family(
    prefix="roberta.",
    inputs=_TWO,
    heads={Task.TEXT_CLASSIFICATION: bert.roberta_classifier},
    offset_positions=True,
)

FAMILIES: Mapping[str, Family] = {
    "bert": Family(
        prefix="bert.",
        inputs=_THREE,
        heads={Task.TEXT_CLASSIFICATION: bert.bert_classifier},
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        prefix="distilbert.",
        inputs=_TWO,
        heads={Task.TEXT_CLASSIFICATION: distilbert.distilbert_classifier},
    ),
    "electra": Family(
        prefix="electra.",
        inputs=_THREE,
        heads={Task.TEXT_CLASSIFICATION: electra.electra_classifier},
    ),
    "albert": Family(
        prefix="albert.",
        inputs=_THREE,
        heads={Task.TEXT_CLASSIFICATION: albert.albert_classifier},
    ),
    "mpnet": Family(
        prefix="mpnet.",
        inputs=_TWO,
        heads={Task.TEXT_CLASSIFICATION: mpnet.mpnet_classifier},
        offset_positions=True,
    ),
    "modernbert": Family(
        prefix="model.",
        inputs=_TWO,
        heads={Task.TEXT_CLASSIFICATION: modernbert.modernbert_classifier},
    ),
    "deberta-v2": Family(
        prefix="deberta.",
        inputs=_TWO,
        heads={Task.TEXT_CLASSIFICATION: deberta.deberta_classifier},
    ),
}
