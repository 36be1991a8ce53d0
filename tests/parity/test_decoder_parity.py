"""Decoders built here against live transformers, field by field."""

import numpy as np
import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.native.decoders.llama import GATE_UP
from lmonnx.errors import ParityError
from lmonnx.runtime.tokenizer import Tokenizer
from tests import tiny_text
from tests.cached import CachedGraph
from tests.conftest import MODELS, SHARED
from tests.tiny_text import byte_pieces, write_json

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the range; float32 sums in another order
LENGTH = 24
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
SLIDING = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
MIXED = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
CASES = {
    "llama": [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 32},
        {"head_dim": 8},
        {"head_dim": 24, "num_key_value_heads": 1},
        {"num_key_value_heads": 4, "hidden_act": "gelu"},
        {"num_key_value_heads": None, "rope_theta": 500000.0},
        {"num_hidden_layers": 1},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "default"}},
        {"rope_scaling": LLAMA3},
        {"rope_scaling": YARN},
        {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.4, "truncate": False}},
        {"rope_scaling": {**YARN, "attention_factor": 0.9, "beta_fast": 16.0, "beta_slow": 2.0}},
    ],
    "mistral": [{}, {"sliding_window": None}, {"sliding_window": 1}, {"sliding_window": 6}],
    "qwen2": [{}, SLIDING, {**SLIDING, "layer_types": MIXED}, {"tie_word_embeddings": True}],
    "qwen3": [
        {},
        {"head_dim": 8},
        {"attention_bias": True, "tie_word_embeddings": True},
        SLIDING,
    ],
    "smollm3": [
        {},
        {"no_rope_layer_interval": 2},
        {"no_rope_layers": [0, 1, 1, 0], "tie_word_embeddings": False},
        {"use_sliding_window": True, "sliding_window": 5, "no_rope_layer_interval": 3},
        {"use_sliding_window": True, "sliding_window": 5, "layer_types": MIXED},
        {"attention_bias": True, "mlp_bias": True},
    ],
    "gemma": [{}, {"hidden_act": "gelu"}, {"attention_bias": True}, {"tie_word_embeddings": False}],
    "gemma2": [
        {"sliding_window": 5},
        {"sliding_window": 5, "layer_types": MIXED, "query_pre_attn_scalar": 7},
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 9},
    ],
    "gemma3_text": [
        {"sliding_window": 5},
        {"sliding_window": 5, "sliding_window_pattern": 2, "query_pre_attn_scalar": 7},
        {
            "sliding_window": 5,
            "layer_types": MIXED,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        {"final_logit_softcapping": 3.0, "rope_local_base_freq": 500.0},
    ],
    "phi3": [
        {},
        {"sliding_window": 6, "tie_word_embeddings": True},
        {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32},
        {"partial_rotary_factor": 0.75, "head_dim": 64, "num_key_value_heads": 1},
        {"partial_rotary_factor": 0.5},
    ],
    "granite": [
        {},
        {
            "embedding_multiplier": 12.0,
            "logits_scaling": 8.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.015625,
            "tie_word_embeddings": True,
            "attention_bias": True,
        },
    ],
    "gpt2": [
        {},
        {"n_inner": 80, "activation_function": "relu"},
        {"scale_attn_weights": False},
        {"tie_word_embeddings": False, "activation_function": "gelu"},
        {"reorder_and_upcast_attn": True},
    ],
    "gpt_neox": [
        {},
        {"rotary_pct": 1.0},
        {"use_parallel_residual": False},
        {"attention_bias": False, "hidden_act": "gelu_fast"},
        {"hidden_size": 128, "rotary_pct": 0.5, "rotary_emb_base": 500},
    ],
}
SIZES = {
    "vocab_size": len(byte_pieces()),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_GPT2 = {"vocab_size": SIZES["vocab_size"], "n_embd": 64, "n_layer": 3, "n_head": 4}
FAMILIES = {
    "gpt2": {**_GPT2, "n_positions": 64},
    "gpt_neox": {**SIZES, "num_key_value_heads": None},
    "qwen3": {**SIZES, "head_dim": 16},
    "gemma": {**SIZES, "head_dim": 16},
    "gemma2": {**SIZES, "head_dim": 16},
    "gemma3_text": {**SIZES, "head_dim": 16},
}
VARIANTS = [
    pytest.param(family, changes, id=f"{family}-{'-'.join(changes) or 'plain'}-{number}")
    for family, cases in CASES.items()
    for number, changes in enumerate(cases)
]


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def made(folder, family, changes, torch):
    """Save a random checkpoint; return transformers' model of it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    fields |= {**FAMILIES.get(family, SIZES), **changes}
    config = AutoConfig.for_model(family, **fields)
    # torch's fused attention of transformers 4.57 passes over Gemma 2's soft cap.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    seed = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=seed)
            if weight.dim() == 2:
                weight.copy_(drawn * (0.5 if "emb" in name or "wte" in name else 0.2))
            else:
                weight.add_(drawn * 0.2)
    model.save_pretrained(folder)
    tiny_text.write_byte_bpe(folder, "json")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return model


def exported(folder):
    return export(open_checkpoint(str(folder)), folder / "bundle", verify=False)


def drawn_ids(length, seed=0):
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], length)


def logits_of(model, torch, ids):
    with torch.inference_mode():
        return model(torch.from_numpy(ids[None])).logits[0].numpy()


def near(given, wanted):
    return np.abs(given - wanted).max() < TOLERANCE * np.ptp(wanted)


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_every_field_of_every_family_gives_the_logits_of_transformers(
    tmp_path, family, changes, torch
):
    model = made(tmp_path, family, changes, torch)
    bundle, ids = exported(tmp_path), drawn_ids(LENGTH)
    wanted = logits_of(model, torch, ids)
    assert near(CachedGraph(bundle)([ids], keep=LENGTH)[0], wanted)
    stepped, chunked = CachedGraph(bundle), CachedGraph(bundle)
    assert near(np.stack([stepped([[i]])[0, 0] for i in ids]), wanted)
    chunks = [chunked([part], keep=len(part))[0] for part in np.split(ids, [7, 8, 19])]
    assert near(np.concatenate(chunks), wanted)


@pytest.mark.parametrize("family", CASES)
def test_a_ragged_batch_gives_every_row_its_own_logits(tmp_path, family, torch):
    model = made(tmp_path, family, CASES[family][-1], torch)
    graph = CachedGraph(exported(tmp_path), slots=3)
    texts = [drawn_ids(length, length) for length in (3, 17, 9)]
    for slot, text in enumerate(texts):
        graph([text], slot=slot, keep=0)
    for step in range(5):
        texts = [np.append(text, 11 * slot + step) for slot, text in enumerate(texts)]
        given = graph([[text[-1]] for text in texts])
        wanted = np.stack([logits_of(model, torch, text)[-1] for text in texts])
        assert near(given[:, 0], wanted)


@pytest.mark.parametrize("family", CASES)
def test_export_holds_every_family_to_transformers(tmp_path, family, torch):
    made(tmp_path, family, CASES[family][-1], torch)
    bundle = export(open_checkpoint(str(tmp_path)), tmp_path / "bundle")
    assert bundle.manifest.generation.context == bundle.manifest.text.max_length == 64
    (parity,) = bundle.manifest.history[-1].parity
    assert parity.relative < TOLERANCE and parity.agreement == 1.0


def test_export_refuses_a_decoder_that_answers_otherwise(tmp_path, torch, monkeypatch):
    made(tmp_path, "llama", {}, torch)
    monkeypatch.setattr("lmonnx.compiler.export.native.decoders.llama.GATE_UP", GATE_UP[::-1])
    with pytest.raises(ParityError, match="of the range on 100 texts"):
        export(open_checkpoint(str(tmp_path)), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


PROMPTS = ("Once upon a time", "The capital of France is", "def add(a, b):")


def greedy_alike(source, folder, torch, prompts, count=64):
    """Say of each prompt whether the next tokens are transformers'."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    bundle = export(open_checkpoint(str(source)), folder, verify=False)
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.inference_mode():
            wanted = model.generate(
                ids, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        graph, given = CachedGraph(bundle, room=128), ids[0].tolist()
        logits = graph([given])
        for _ in range(count):
            given.append(int(logits[0, -1].argmax()))
            logits = graph([given[-1:]])
        yield given == wanted[0].tolist()


@pytest.mark.shared
def test_tinystories_goes_on_as_in_transformers(tmp_path, torch):
    source = SHARED / "models" / "tinystories-260k-llama"
    assert all(greedy_alike(source, tmp_path / "bundle", torch, PROMPTS))


@pytest.mark.models
def test_smollm2_goes_on_as_in_transformers(tmp_path, torch):
    source = MODELS / "smollm2-135m-instruct"
    if not source.is_dir():
        pytest.skip("LMONNX_MODELS has no smollm2-135m-instruct")
    chat = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n"
    assert all(greedy_alike(source, tmp_path / "bundle", torch, (*PROMPTS, chat)))


FRAMES = [
    {},
    {"add_bos_token": False},
    {"add_eos_token": True},
    {"add_bos_token": False, "add_eos_token": True},
    {"bos_token": "<mask>", "eos_token": "<pad>", "add_eos_token": True},
]


@pytest.mark.parametrize("settings", FRAMES)
@pytest.mark.parametrize("name", ["LlamaTokenizer", "GPTNeoXTokenizer", "GemmaTokenizer"])
def test_the_tokens_around_a_text_are_those_of_the_tokenizers_class(
    tmp_path, name, settings, torch
):
    from transformers import AutoTokenizer

    made(tmp_path, "llama", {}, torch)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    stated = {"tokenizer_class": name, **tokens, **settings}
    write_json(tmp_path / "tokenizer_config.json", stated)
    bundle = exported(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer(bundle.file("tokenizer.json"), bundle.manifest.text)
    for text in ("", "film", "the film is goo"):
        assert ours.encode([text])[0].ids == theirs(text).input_ids
    assert ours.encode([("a", "b")])[0].ids == theirs("a", "b").input_ids


@pytest.mark.parametrize("settings", [{}, {"add_prefix_space": True}, {"add_prefix_space": None}])
def test_the_first_word_begins_as_the_settings_say(tmp_path, settings, torch):
    from transformers import AutoTokenizer

    made(tmp_path, "llama", {}, torch)
    write_json(
        tmp_path / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", **settings},
    )
    bundle = exported(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer(bundle.file("tokenizer.json"), bundle.manifest.text)
    assert ours.encode(["film good"])[0].ids == theirs("film good").input_ids
