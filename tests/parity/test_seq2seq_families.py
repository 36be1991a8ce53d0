"""Encoder-decoders built here against live transformers, field by field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lmonnx.bundle.manifest import CacheSpec
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export.native.seq2seq.build import build_seq2seq, cache_spec, read_seq2seq
from lmonnx.compiler.export.seq2seq import SETTINGS, generation_settings
from lmonnx.compiler.stage import SEQ2SEQ_FILES
from tests.conftest import MODELS, SHARED
from tests.paired import Answers, Sources
from tests.tiny_text import write_json

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the range; float32 sums in another order
SOURCES, BEAMS, LENGTH, START, PAD = (21, 3, 6), 3, 7, 2, 1
_SIZES = {
    "vocab_size": 83,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 24,
}
_T5 = {
    "vocab_size": 83,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}
# Heads of 4 and 12 are none that the kernel takes; 5 is odd.
_SMALL_HEADS = {"decoder_attention_heads": 8}
_LARGE_HEADS = {"d_model": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_ODD_HEADS = {"d_model": 40, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
_APART = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 59}
_EVERY = [
    {},
    {"scale_embedding": True, "tie_word_embeddings": False},
    {"scale_embedding": False, "activation_function": "relu"},
    {"activation_function": "swish", **_SMALL_HEADS},
    {"activation_function": "gelu_new", **_LARGE_HEADS},
    {"encoder_layers": 1, "decoder_layers": 1, **_ODD_HEADS},
]
CASES = {
    "bart": _EVERY,
    "m2m_100": [*_EVERY, {"pad_token_id": 0}],
    "marian": [
        *_EVERY,
        {"share_encoder_decoder_embeddings": False},
        _APART,
        {**_APART, "tie_word_embeddings": False},
    ],
    "mbart": _EVERY,
    "mt5": [{}, {"d_kv": 12, "num_decoder_layers": 1}, {"tie_word_embeddings": True}],
    "pegasus": _EVERY,
    "t5": [
        {},
        {"num_decoder_layers": 3, "d_kv": 16},
        {"tie_word_embeddings": False, "d_kv": 4},
        {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 1},
        {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False},
        {"feed_forward_proj": "gelu", "num_heads": 3},
        {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
        {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 5},
    ],
}
VARIANTS = [
    pytest.param(family, changes, id=f"{family}-{'-'.join(changes) or 'plain'}")
    for family, cases in CASES.items()
    for changes in cases
]
REAL = {
    "marian": SHARED / "models" / "marian-multi30k-de-en",
    "pegasus": SHARED / "models" / "aren-transliteration-pegasus",
    "t5": MODELS / "flan-t5-small-titler",
}


@dataclass(frozen=True)
class Pair:
    """The graphs of a checkpoint, transformers' model, and what both are asked."""

    graphs: dict
    cache: CacheSpec
    sources: list
    answers: np.ndarray  # (rows, LENGTH)
    wanted: np.ndarray  # transformers' logits, (rows, LENGTH, V)

    def begin(self):
        read = Sources(self.graphs["encoder"], self.sources, pad=PAD)
        return Answers(self.graphs["decoder"], self.cache, read, beams=BEAMS)

    def near(self, given, wanted):
        return np.abs(given - wanted).max() < TOLERANCE * np.ptp(self.wanted)


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def made(folder, family, changes, torch):
    """Save a random checkpoint; return transformers' model of it."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    fields = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": PAD}
    fields |= {"decoder_start_token_id": START, **(_T5 if "t5" in family else _SIZES), **changes}
    own = fields.pop("decoder_vocab_size", None)
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **fields)).eval()
    if own is not None:
        model.resize_decoder_token_embeddings(own)
    seed = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" in name and family in {"marian", "pegasus"}:
                continue
            weight.add_(torch.randn(weight.shape, generator=seed) * 0.2)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(
                torch.randn(model.final_logits_bias.shape, generator=seed)
            )
    model.save_pretrained(folder)
    return model


def paired(source, folder, model, torch):
    checkpoint = open_checkpoint(str(source))
    plan = read_seq2seq(checkpoint)
    (folder / "onnx").mkdir(exist_ok=True)
    build_seq2seq(checkpoint, plan, folder, SEQ2SEQ_FILES)
    graphs = {role: folder / file for role, file in SEQ2SEQ_FILES.items()}
    return compared(graphs, cache_spec(plan), model, torch)


def compared(graphs, cache, model, torch):
    draw = np.random.default_rng(3)
    config = model.config
    sources = [draw.integers(3, config.vocab_size, length).tolist() for length in SOURCES]
    words = getattr(config, "decoder_vocab_size", config.vocab_size)
    answers = draw.integers(3, words, (len(sources) * BEAMS, LENGTH))
    answers[:, 0] = config.decoder_start_token_id
    return Pair(
        graphs,
        cache,
        sources,
        answers,
        logits_of(model, torch, sources, answers),
    )


def logits_of(model, torch, sources, answers):
    """Return transformers' logits of each answer, its source alone and without padding."""
    found = []
    with torch.inference_mode():
        for row, answer in enumerate(answers):
            source = torch.tensor([sources[row // BEAMS]])
            target = torch.from_numpy(answer[None])
            found.append(model(input_ids=source, decoder_input_ids=target).logits[0].numpy())
    return np.stack(found)


def check(pair, torch):
    whole = pair.begin()(pair.answers, keep=LENGTH, top_k=5)
    assert pair.near(whole.logits, pair.wanted)
    best = torch.from_numpy(whole.logits).log_softmax(-1).topk(5)
    np.testing.assert_allclose(whole.top_logprobs, best.values.numpy(), atol=2e-5)
    assert (whole.top_ids == best.indices.numpy()).all()
    steps = pair.begin()
    for at in range(LENGTH):
        given = steps(pair.answers[:, at : at + 1])
        assert pair.near(given.logits[:, 0], pair.wanted[:, at])
        assert given.top_ids.shape == (len(pair.answers), 1, 0)
    check_ragged(pair)


def check_ragged(pair):
    """Begin with prefixes of different lengths, then append a token a row."""
    rows, ragged = np.arange(len(pair.answers)), pair.begin()
    given = ragged(pair.answers[:, :4], added=rows % 4 + 1, keep=4)
    assert pair.near(given.logits[rows, rows % 4], pair.wanted[rows, rows % 4])
    for _ in range(LENGTH - 4):
        at = ragged.lengths.copy()
        given = ragged(pair.answers[rows, at][:, None])
        assert pair.near(given.logits[:, 0], pair.wanted[rows, at])


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_every_field_of_every_family_gives_the_logits_of_transformers(
    tmp_path, family, changes, torch
):
    model = made(tmp_path, family, changes, torch)
    check(paired(tmp_path, tmp_path, model, torch), torch)


_STORED = {"decoder_start_token_id": 2, "eos_token_id": 2, "num_beams": 5, "length_penalty": 2.0}


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("stored", [None, _STORED, {**_STORED, "_from_model_config": True}])
@pytest.mark.parametrize("changes", [{}, {"num_beams": 3, "forced_bos_token_id": 4, "top_k": 7}])
def test_settings_are_those_that_generate_follows(tmp_path, family, stored, changes, torch):
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig

    sizes = {**(_T5 if "t5" in family else _SIZES), "pad_token_id": PAD}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(family, **sizes))
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    write_json(tmp_path / "config.json", {"model_type": family, **sizes, **changes})
    if stored is not None:
        write_json(tmp_path / "generation_config.json", stored)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    wanted = loaded._prepare_generation_config(None)[0].to_dict()
    given, usual = generation_settings(open_checkpoint(str(tmp_path))), GenerationConfig().to_dict()
    for name in (*SETTINGS, "decoder_start_token_id", "bos_token_id", "eos_token_id"):
        assert given.get(name, usual.get(name)) == wanted.get(name, usual.get(name)), name


@pytest.mark.shared
@pytest.mark.models
@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints_give_the_logits_of_transformers(tmp_path, name, torch):
    from transformers import AutoModelForSeq2SeqLM

    if not REAL[name].is_dir():
        pytest.skip(f"{REAL[name]} is absent")
    model = AutoModelForSeq2SeqLM.from_pretrained(REAL[name], dtype=torch.float32).eval()
    check(paired(REAL[name], tmp_path, model, torch), torch)
    written = sum(path.stat().st_size for path in (tmp_path / "onnx").glob("*.onnx_data"))
    stored = 4 * sum(weight.numel() for weight in model.parameters())
    # Pegasus' 0.8 MB are of heads of 4, which the kernel takes filled up to 8.
    assert written <= (1.2 if name == "pegasus" else 1.02) * stored
