"""SEQ2SEQS: which `model_type` is read by what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.export.native.config import Config
from lmonnx.compiler.export.native.seq2seq import bart, t5
from lmonnx.compiler.export.native.seq2seq.plan import EncoderDecoder


@dataclass(frozen=True, slots=True)
class Seq2SeqFamily:
    """How one `model_type` is read.

    Attributes:
        read: From config.json.
        task: What it is for where nobody says.
        generation: Tokens that its class in transformers has where config.json states none.
        base: What tensors begin with, but where the model was saved without its head.
    """

    read: Callable[[Config], EncoderDecoder]
    task: Task
    generation: Mapping[str, int]
    base: str = "model."


_BART = {"bos_token_id": 0, "eos_token_id": 2}
_T5 = {"eos_token_id": 1}

SEQ2SEQS: Mapping[str, Seq2SeqFamily] = {
    "bart": Seq2SeqFamily(
        bart.read_bart,
        Task.SUMMARIZATION,
        {**_BART, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
    ),
    "m2m_100": Seq2SeqFamily(
        bart.read_m2m_100, Task.TRANSLATION, {**_BART, "decoder_start_token_id": 2}
    ),
    "marian": Seq2SeqFamily(
        bart.read_marian,
        Task.TRANSLATION,
        {"decoder_start_token_id": 58100, "eos_token_id": 0, "forced_eos_token_id": 0},
    ),
    "mbart": Seq2SeqFamily(bart.read_mbart, Task.TRANSLATION, {**_BART, "forced_eos_token_id": 2}),
    "mt5": Seq2SeqFamily(
        t5.read_mt5, Task.TEXT_TO_TEXT, {**_T5, "decoder_start_token_id": 0}, base=""
    ),
    "pegasus": Seq2SeqFamily(
        bart.read_pegasus,
        Task.SUMMARIZATION,
        {"decoder_start_token_id": 0, "eos_token_id": 1, "forced_eos_token_id": 1},
    ),
    "t5": Seq2SeqFamily(t5.read_t5, Task.TEXT_TO_TEXT, _T5, base=""),
}
