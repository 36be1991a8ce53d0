"""The tensors of heads: which of them a class of transformers has, under torch's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.tiny_tensors import Arrays, Draw, classes

# Task → what its class is called after the architecture.
ENDINGS = {
    "text-classification": "ForSequenceClassification",
    "zero-shot-classification": "ForSequenceClassification",
    "text-ranking": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "fill-mask": "ForMaskedLM",
    "feature-extraction": "Model",
}
_FAMILY = {"xlm-roberta": "roberta", "camembert": "roberta"}
# Family → the dense layer before the classifier, and the classifier.
_SEQUENCE = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "classifier"),
    "electra": ("classifier.dense", "classifier.out_proj"),
    "albert": ("albert.pooler", "classifier"),
    "mpnet": ("classifier.dense", "classifier.out_proj"),
    "deberta-v2": ("pooler.dense", "classifier"),
}
# Family → dense, norm, decoder and bias of the masked-language head.
_TRANSFORM = "cls.predictions.transform"
_BERT = (
    f"{_TRANSFORM}.dense", f"{_TRANSFORM}.LayerNorm",
    "cls.predictions.decoder", "cls.predictions.bias",
)  # fmt: skip
_LM_HEAD = ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")
_MASKED = {
    "bert": _BERT,
    "roberta": _LM_HEAD,
    "distilbert": (
        "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias",
    ),
    "electra": (
        "generator_predictions.dense", "generator_predictions.LayerNorm",
        "generator_lm_head", "generator_lm_head.bias",
    ),
    "albert": (
        "predictions.dense", "predictions.LayerNorm", "predictions.decoder", "predictions.bias",
    ),
    "mpnet": _LM_HEAD,
    "deberta-v2": _BERT,
    "modernbert": ("head.dense", "head.norm", "decoder", "decoder.bias"),
}  # fmt: skip
_DEBERTA_V3 = "lm_predictions.lm_head"


def class_name(classifier: str, task: str) -> str:
    """Return the class of `task`, given that of sequence classification."""
    return classifier.removesuffix(ENDINGS["text-classification"]) + ENDINGS[task]


def with_head(draw: Draw, config: Mapping[str, Any]) -> Arrays:
    """Draw the head of the class that `config` names; a base model's names have no prefix."""
    name = config["architectures"][0]
    family = _FAMILY.get(config["model_type"], config["model_type"])
    for ending, put in _HEADS.items():
        if name.endswith(ending):
            put(draw, family, config)
            return draw.arrays
    return {name.partition(".")[2]: array for name, array in draw.arrays.items()}


def _size(config: Mapping[str, Any]) -> int:
    return config["dim"] if "dim" in config else config["hidden_size"]


def _sequence(draw: Draw, family: str, config: Mapping[str, Any]) -> None:
    if family == "modernbert":
        _tokens(draw, family, config)
        return
    dense, out = _SEQUENCE[family]
    draw.linear(dense, _size(config), _size(config))
    draw.linear(out, classes(config), _size(config))


def _tokens(draw: Draw, family: str, config: Mapping[str, Any]) -> None:
    if family == "modernbert":
        _modern(draw, config)
    draw.linear("classifier", classes(config), _size(config))


def _spans(draw: Draw, family: str, config: Mapping[str, Any]) -> None:
    if family == "modernbert":
        _modern(draw, config)
    draw.linear("classifier" if family == "modernbert" else "qa_outputs", 2, _size(config))


def _modern(draw: Draw, config: Mapping[str, Any]) -> None:
    size = config["hidden_size"]
    draw.part("head.dense", size, size, bias=config["classifier_bias"])
    draw.part("head.norm", size, bias=config["norm_bias"])


def _masked(draw: Draw, family: str, config: Mapping[str, Any]) -> None:
    dense, norm, decoder, bias = _MASKED[family]
    size, vocabulary = _size(config), config["vocab_size"]
    narrow = config.get("embedding_size", size)
    tied = config.get("tie_word_embeddings", True)
    if family == "deberta-v2" and not config.get("legacy", True):
        dense, norm, bias = (f"{_DEBERTA_V3}.{part}" for part in ("dense", "LayerNorm", "bias"))
        tied = True
    if family == "modernbert":
        _modern(draw, config)
    else:
        draw.linear(dense, narrow, size)
        draw.norm(norm, narrow)
    if config.get("decoder_bias", True):
        draw.put(bias, vocabulary, scale=0.1)
    if not tied:
        draw.put(f"{decoder}.weight", vocabulary, narrow, scale=0.5)


_HEADS = {
    "ForSequenceClassification": _sequence,
    "ForTokenClassification": _tokens,
    "ForQuestionAnswering": _spans,
    "ForMaskedLM": _masked,
}
