"""FAMILIES: which `model_type` is built by which encoder, and which head a task puts on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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
from lmonnx.compiler.export.native.blocks import Encoded, Scope
from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.heads import (
    Head,
    HiddenStates,
    MaskedHead,
    SequenceHead,
    SettingHead,
    SpanHead,
    TokenHead,
    Transform,
)


class Encoder(Protocol):
    """From token ids to the last hidden states."""

    def __call__(self, g: Scope, config: Config, *, first: bool) -> Encoded:
        """Append the encoder's nodes: (B, S) → (B, S, E), or (B, E) if `first`."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """How one `model_type` is exported.

    `prefix` is the base model's in the checkpoint; positions start after the padding id where
    `offset_positions` is set.
    """

    prefix: str
    inputs: tuple[str, ...]
    encoder: Encoder
    heads: Mapping[Task, Head]
    positions: str = "max_position_embeddings"
    offset_positions: bool = False


_TOKENS, _SPANS = TokenHead(), SpanHead()


def _heads(
    sequence: SequenceHead,
    masked: Head,
    tokens: Head = _TOKENS,
    spans: Head = _SPANS,
) -> Mapping[Task, Head]:
    return {
        Task.TEXT_CLASSIFICATION: sequence,
        Task.ZERO_SHOT_CLASSIFICATION: sequence,
        Task.TEXT_RANKING: sequence,
        Task.TOKEN_CLASSIFICATION: tokens,
        Task.QUESTION_ANSWERING: spans,
        Task.FILL_MASK: masked,
        Task.FEATURE_EXTRACTION: HiddenStates(),
    }


_TWO = ("input_ids", "attention_mask")
_THREE = (*_TWO, "token_type_ids")

_PREDICTIONS = MaskedHead(
    Transform(
        "cls.predictions.transform.dense",
        "gelu",
        setting="hidden_act",
        norm="cls.predictions.transform.LayerNorm",
    ),
    decoder="cls.predictions.decoder",
    biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
)
# The activation is fixed in transformers' code, whatever hidden_act is.
_LM_HEAD = MaskedHead(
    Transform("lm_head.dense", "gelu", norm="lm_head.layer_norm"),
    decoder="lm_head.decoder",
    biases=("lm_head.bias", "lm_head.decoder.bias"),
)
_TANH_HEAD = SequenceHead(Transform("classifier.dense", "tanh"), out="classifier.out_proj")
_ROBERTA = Family(
    prefix="roberta.",
    inputs=_TWO,
    encoder=bert.encode_roberta,
    heads=_heads(_TANH_HEAD, _LM_HEAD),
    offset_positions=True,
)
_MODERN = Transform(
    "head.dense",
    "gelu",
    setting="classifier_activation",
    norm="head.norm",
    dense_bias="classifier_bias",
    norm_bias="norm_bias",
)
# DeBERTa v3 as it was published; its product has no weights but the word embeddings.
_DEBERTA_V3 = MaskedHead(
    Transform(
        "lm_predictions.lm_head.dense",
        "gelu",
        setting="hidden_act",
        norm="lm_predictions.lm_head.LayerNorm",
    ),
    decoder="lm_predictions.lm_head",
    biases=("lm_predictions.lm_head.bias",),
    always_tied=True,
)

FAMILIES: Mapping[str, Family] = {
    "bert": Family(
        prefix="bert.",
        inputs=_THREE,
        encoder=bert.encode_bert,
        heads=_heads(SequenceHead(Transform("pooler.dense", "tanh")), _PREDICTIONS),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        prefix="distilbert.",
        inputs=_TWO,
        encoder=distilbert.encode_distilbert,
        heads=_heads(
            SequenceHead(Transform("pre_classifier", "relu")),
            MaskedHead(
                Transform("vocab_transform", "gelu", setting="activation", norm="vocab_layer_norm"),
                decoder="vocab_projector",
                biases=("vocab_projector.bias",),
            ),
        ),
    ),
    "electra": Family(
        prefix="electra.",
        inputs=_THREE,
        encoder=electra.encode_electra,
        heads=_heads(
            SequenceHead(Transform("classifier.dense", "gelu"), out="classifier.out_proj"),
            MaskedHead(
                Transform(
                    "generator_predictions.dense", "gelu", norm="generator_predictions.LayerNorm"
                ),
                decoder="generator_lm_head",
                biases=("generator_lm_head.bias",),
            ),
        ),
    ),
    "albert": Family(
        prefix="albert.",
        inputs=_THREE,
        encoder=albert.encode_albert,
        heads=_heads(
            SequenceHead(Transform("pooler", "tanh")),
            MaskedHead(
                Transform(
                    "predictions.dense",
                    "gelu_new",
                    setting="hidden_act",
                    norm="predictions.LayerNorm",
                ),
                decoder="predictions.decoder",
                biases=("predictions.bias", "predictions.decoder.bias"),
            ),
        ),
    ),
    "mpnet": Family(
        prefix="mpnet.",
        inputs=_TWO,
        encoder=mpnet.encode_mpnet,
        heads=_heads(_TANH_HEAD, _LM_HEAD),
        offset_positions=True,
    ),
    "modernbert": Family(
        prefix="model.",
        inputs=_TWO,
        encoder=modernbert.encode_modernbert,
        heads=_heads(
            SequenceHead(_MODERN, pooling="classifier_pooling"),
            MaskedHead(
                _MODERN,
                decoder="decoder",
                biases=("decoder.bias",),
                bias_flag="decoder_bias",
                words="embeddings.tok_embeddings.weight",
            ),
            TokenHead(_MODERN),
            SpanHead(_MODERN, out="classifier"),
        ),
    ),
    "deberta-v2": Family(
        prefix="deberta.",
        inputs=_TWO,
        encoder=deberta.encode_deberta,
        heads=_heads(
            SequenceHead(Transform("pooler.dense", "gelu", setting="pooler_hidden_act")),
            SettingHead("legacy", on=_PREDICTIONS, off=_DEBERTA_V3),
        ),
    ),
}
