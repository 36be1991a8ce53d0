"""BART and the families that are BART but for norms and positions: Marian, mBART, Pegasus, M2M100.

Source:
    Lewis et al., "BART" (arXiv:1910.13461); transformers' modeling_*.py of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.decoders.activations import ACTIVATIONS
from lmonnx.compiler.export.native.decoders.plan import FeedForward, Product
from lmonnx.compiler.export.native.seq2seq.plan import (
    EncoderDecoder,
    Head,
    Heads,
    Modules,
    Positions,
    PositionTable,
    Stack,
)
from lmonnx.errors import StageError

_MODULES = Modules(
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.out_proj",
    attention_norm="self_attn_layer_norm",
    cross_qkv=("encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj"),
    cross_out="encoder_attn.out_proj",
    cross_norm="encoder_attn_layer_norm",
    ffn_norm="final_layer_norm",
)
# Of one table that has several names, a file may have any.
_WORDS = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens")
_HEAD = "lm_head"
# Training, generation, and fields of fairseq that these classes never read.
_INERT = (
    "activation_dropout",
    "add_bias_logits",
    "classif_dropout",
    "decoder_layerdrop",
    "encoder_layerdrop",
    "extra_pos_embeddings",
    "force_bos_token_to_be_generated",
    "init_std",
    "is_encoder_decoder",
    "num_hidden_layers",
    "pad_token_id",
    "save_step",
    "unk_token_id",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What sets a family apart from BART."""

    positions: Positions = Positions.LEARNED
    offset: int = 2  # rows of the table before the first place
    norm_first: bool = False
    embedding_norm: bool = False
    final_norm: bool = False
    bias: str = "final_logits_bias"
    activation: str = "gelu"  # where config.json does not say
    scaled: bool = False


def read_bart(config: Config) -> EncoderDecoder:
    """Read BartForConditionalGeneration's config.json."""
    return _read(config, _Kind(embedding_norm=True))


def read_mbart(config: Config) -> EncoderDecoder:
    """Read MBartForConditionalGeneration's config.json: BART with norms before and at the end."""
    return _read(config, _Kind(norm_first=True, embedding_norm=True, final_norm=True))


def read_pegasus(config: Config) -> EncoderDecoder:
    """Read PegasusForConditionalGeneration's config.json: mBART with sinusoids."""
    kind = _Kind(positions=Positions.SINUSOIDAL, offset=0, norm_first=True, final_norm=True)
    return _read(config, kind)


def read_m2m_100(config: Config) -> EncoderDecoder:
    """Read M2M100ForConditionalGeneration's config.json, which is NLLB's too."""
    kind = _Kind(
        positions=Positions.COUNTED,
        norm_first=True,
        final_norm=True,
        bias="",
        activation="relu",
        scaled=True,
    )
    return _read(config, kind)


def read_marian(config: Config) -> EncoderDecoder:
    """Read MarianMTModel's config.json: BART with sinusoids, whose tables may be two."""
    plan = _read(config, _Kind(positions=Positions.SINUSOIDAL, offset=0))
    shared = config.flag("share_encoder_decoder_embeddings", default=True)
    vocabulary = config.integer_or("decoder_vocab_size", plan.encoder.vocabulary)
    if not shared:
        encoder = replace(plan.encoder, words=_WORDS[1:2])
        words = _WORDS[2:] + ((_HEAD,) if plan.head.tied else ())
        decoder = replace(plan.decoder, words=words, vocabulary=vocabulary)
        return replace(plan, encoder=encoder, decoder=decoder)
    if vocabulary != plan.encoder.vocabulary:
        raise StageError(
            f"config.json: decoder_vocab_size is {vocabulary}, vocab_size "
            f"{plan.encoder.vocabulary}, though share_encoder_decoder_embeddings says that they "
            "are one; correct the file"
        )
    return plan


def _read(config: Config, kind: _Kind) -> EncoderDecoder:
    """Read what all these families share."""
    config.inert(*_INERT)
    # Their code has these fixed: a file that says otherwise describes another model.
    config.only("normalize_before", kind.norm_first)
    config.only("normalize_embedding", kind.embedding_norm)
    config.only("add_final_layer_norm", kind.final_norm)
    config.only("static_position_embeddings", kind.positions is not Positions.LEARNED)
    places = config.integer("max_position_embeddings", 1024)
    tied = config.flag("tie_word_embeddings", default=True)
    return EncoderDecoder(
        encoder=_stack(config, kind, "encoder", places, tied=tied),
        decoder=_stack(config, kind, "decoder", places, tied=tied),
        head=Head(tied, _HEAD, bias=kind.bias),
        source=places,
        context=places,
    )


def _stack(config: Config, kind: _Kind, side: str, places: int, *, tied: bool) -> Stack:
    hidden, heads = config.integer("d_model"), config.divisor(f"{side}_attention_heads", "d_model")
    module = f"model.{side}"
    scaled = config.flag("scale_embedding", default=kind.scaled)
    pad = config.integer("pad_token_id", 1, least=0)
    counted = kind.positions is Positions.COUNTED
    table = PositionTable(
        kind.positions,
        f"{module}.embed_positions",
        rows=places,
        first=pad + 1 if counted else kind.offset,
        pad_id=pad if counted else None,
    )
    return Stack(
        layers=f"{module}.layers",
        count=config.integer(f"{side}_layers"),
        hidden=hidden,
        vocabulary=config.integer("vocab_size"),
        heads=Heads(hidden, heads, hidden // heads, (hidden // heads) ** -0.5, bias=True),
        ffn=FeedForward(
            size=config.integer(f"{side}_ffn_dim"),
            activation=config.choice("activation_function", ACTIVATIONS, kind.activation),
            up=Product("fc1", bias=True),
            down=Product("fc2", bias=True),
            gated=False,
        ),
        modules=_MODULES,
        words=_WORDS + ((_HEAD,) if tied else ()),
        epsilon=1e-5,
        words_factor=math.sqrt(hidden) if scaled else 1.0,
        norm_first=kind.norm_first,
        embedding_norm=f"{module}.layernorm_embedding" if kind.embedding_norm else "",
        final_norm=f"{module}.layer_norm" if kind.final_norm else "",
        positions=table,
    )
