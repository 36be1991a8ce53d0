"""GGUF files against the checkpoints behind them, transformers' reader and SentencePiece."""

import io
import json

import numpy as np
import pytest
from gguf import GGMLQuantizationType, TokenType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.checkpoint.weights import open_weights
from lmonnx.compiler.export import export
from tests.cached import CachedGraph
from tests.conftest import MODELS
from tests.gguf_files import byte_level_text, read_json, scored_text, write_gguf
from tests.gguf_models import arrays_of, config_of
from tests.parity.test_decoder_parity import (
    LLAMA3,
    LONGROPE,
    YARN,
    drawn_ids,
    logits_of,
    made,
    near,
)
from tests.texts import NASTY

pytestmark = pytest.mark.parity

SMOLLM2 = MODELS / "smollm2-135m-instruct"
LENGTH = 24
# Our random models have other sizes than any Gemma, so the scalar is the head's, as keys imply.
CASES = [
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 24, "num_key_value_heads": 1}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("llama", {"rope_scaling": LLAMA3}),
    ("llama", {"rope_scaling": {**YARN, "attention_factor": 0.9, "beta_fast": 16.0}}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {}),
    ("qwen3", {"attention_bias": True}),
    ("smollm3", {}),
    ("gemma", {}),
    ("gemma2", {"sliding_window": 5, "query_pre_attn_scalar": 16}),
    ("gemma3_text", {"sliding_window": 5, "query_pre_attn_scalar": 16, "num_hidden_layers": 7}),
    ("phi3", {}),
    ("phi3", {"sliding_window": 6, "partial_rotary_factor": 0.5}),
    ("phi3", {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32}),
    (
        "granite",
        {
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.015625,
        },
    ),
    ("gpt2", {}),
    ("gpt2", {"n_inner": 80, "tie_word_embeddings": False}),
    ("gpt_neox", {}),
    ("gpt_neox", {"rotary_pct": 1.0, "use_parallel_residual": False}),
]
# What transformers 4.57.6 reads right from GGUF, by itself.
READ_THERE = ("llama", "qwen2", "qwen3", "gemma2", "phi3", "gpt2")


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def full_config(model):
    """Return config.json with every field stated, as llama.cpp's converter sees it."""
    config = model.config.to_dict()
    config.setdefault("head_dim", None)
    if config["head_dim"] is None and "num_attention_heads" in config:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    if config["model_type"] == "gpt2":
        config["n_inner"] = config["n_inner"] or 4 * config["n_embd"]
    return config


def converted(folder, model):
    """Write a saved checkpoint as GGUF."""
    config = full_config(model)
    tokenizer = read_json(folder / "tokenizer.json")
    text = byte_level_text(tokenizer, "gpt-2", config["vocab_size"], bos=0, eos=2, padding=1)
    weights = open_weights(folder)
    arrays = {name: weights.read(name) for name in weights}
    (folder / "gguf").mkdir()
    return write_gguf(folder / "gguf" / "model.gguf", config, arrays, text)


def loaded(checkpoint, torch):
    """Return transformers' model of what we read, which must be all it wants."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.path)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    weights = checkpoint.weights()
    state = {name: torch.from_numpy(weights.read(name)) for name in weights}
    missing, unexpected = model.load_state_dict(state, strict=False)
    heads = {"lm_head.weight", "embed_out.weight"} if config.tie_word_embeddings else set()
    assert not unexpected
    assert not {name for name in missing if not name.endswith("rotary_emb.inv_freq")} - heads
    model.tie_weights()
    return model


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_a_gguf_file_is_the_checkpoint_that_it_was_written_from(tmp_path, family, changes, torch):
    model = made(tmp_path, family, changes, torch)
    checkpoint = open_checkpoint(str(converted(tmp_path, model)))
    ids = drawn_ids(LENGTH)
    wanted = logits_of(model, torch, ids)
    assert near(logits_of(loaded(checkpoint, torch), torch, ids), wanted)
    bundle = export(checkpoint, tmp_path / "bundle", verify=False)
    assert near(CachedGraph(bundle)([ids], keep=LENGTH)[0], wanted)


@pytest.mark.parametrize(
    ("family", "changes"),
    [case for case in CASES if case[0] in READ_THERE and "rope_scaling" not in case[1]],
)
def test_transformers_own_reader_finds_the_same(tmp_path, family, changes, torch):
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = made(tmp_path, family, changes, torch)
    path = converted(tmp_path, model)
    theirs = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    checkpoint = open_checkpoint(str(path))
    weights = checkpoint.weights()
    assert weights.names() == theirs["tensors"].keys()
    for name in weights:
        np.testing.assert_array_equal(weights.read(name), theirs["tensors"][name].numpy())
    same = checkpoint.config.keys() & theirs["config"].keys() - {"architectures", "head_dim"}
    stated = {name: theirs["config"][name] for name in same}
    assert {name: checkpoint.config[name] for name in same} == pytest.approx(stated)


@pytest.mark.models
@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="LMONNX_MODELS has no smollm2-135m-instruct")
def test_smollm2_as_gguf_is_smollm2(tmp_path):
    original = open_checkpoint(str(SMOLLM2))
    weights = original.weights()
    arrays = {name: weights.read(name) for name in weights}
    stored = read_json(SMOLLM2 / "tokenizer.json")
    text = byte_level_text(stored, "smollm", 49152, bos=1, eos=2, unknown=0, padding=2)
    text |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_space_prefix": False}
    config = {**original.config, "head_dim": 64}
    half = GGMLQuantizationType.F16
    path = write_gguf(tmp_path / "x.gguf", config, arrays, text, quantized=half)
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.weights().names() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(checkpoint.weights().read(name), array)
    kept = ("vocab_size", "rope_theta", "rms_norm_eps", "bos_token_id", "eos_token_id", "head_dim")
    wanted = {k: config[k] for k in kept}
    assert {k: checkpoint.config[k] for k in kept} == pytest.approx(wanted, rel=1e-7)
    ids = np.array([1, 504, 3575, 282, 4649, 314], np.int64)
    folder = export(original, tmp_path / "folder", verify=False)
    file = export(checkpoint, tmp_path / "file", verify=False)
    np.testing.assert_array_equal(CachedGraph(file)([ids]), CachedGraph(folder)([ids]))


@pytest.fixture(scope="module")
def pieces():
    """Give a SentencePiece model with bytes for what it lacks, and its pieces as GGUF has them."""
    import sentencepiece

    trained = io.BytesIO()
    lines = [
        f"{a} {b} the quick brown fox, jumps; over {i}!" for i, a in enumerate(WORDS) for b in WORDS
    ]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=trained,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        user_defined_symbols=["<tool>"],
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    kinds = (
        (model.is_unknown, TokenType.UNKNOWN),
        (model.is_control, TokenType.CONTROL),
        (model.is_unused, TokenType.UNUSED),
        (model.is_byte, TokenType.BYTE),
    )
    found = []
    for index in range(model.get_piece_size()):
        kind = next((kind for test, kind in kinds if test(index)), TokenType.NORMAL)
        if model.id_to_piece(index) == "<tool>":
            kind = TokenType.USER_DEFINED
        found.append((model.id_to_piece(index), model.get_score(index), kind))
    return model, found


WORDS = "alpha beta gamma delta running runner ran walks walking 12 2024 don't élan naïve".split()


@pytest.fixture(scope="module")
def both(pieces, tmp_path_factory):
    model, found = pieces
    text = scored_text(found, bos=1, eos=2, unknown=0)
    text["tokenizer.ggml.add_bos_token"] = False
    config = config_of("llama", vocab_size=len(found))
    path = tmp_path_factory.mktemp("pieces") / "x.gguf"
    checkpoint = open_checkpoint(str(write_gguf(path, config, arrays_of(config), text)))
    return model, Tokenizer.from_str(json.dumps(checkpoint.json_file("tokenizer.json")))


@pytest.mark.parametrize("text", [*NASTY, "a running runner " * 6000, "<tool>run<tool>"])
def test_pieces_are_those_of_sentencepiece(both, text):
    same_pieces(both, text)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=40) | st.text(st.sampled_from("abdeghlmnprtuw \n'12é<>/s"), max_size=40)
)
def test_pieces_of_drawn_text_are_those_of_sentencepiece(both, text):
    same_pieces(both, text)


def same_pieces(both, text):
    model, ours = both
    ours.encode_special_tokens = True  # to SentencePiece a control token in text is its letters
    wanted = model.encode(text)
    # In transformers' class each stretch after a token begins with "▁" as well.
    if "<tool>" not in text:
        assert ours.encode(text).ids == wanted
    assert ours.decode(wanted) == model.decode(wanted)
