"""Decoders that are not built here, traced by optimum and given our cache, against transformers."""

import warnings

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.compiler.export.native.decoders import DECODERS
from lmonnx.errors import UnsupportedError
from lmonnx.runtime.generate.params import SamplingParams
from tests import tiny_text
from tests.cached import CachedGraph
from tests.tiny_text import byte_pieces, write_json

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the range; float32 sums in another order
TOKENS, LENGTH = 16, 40
PROMPTS = ["A film", "the good thing is not", "7", "filming in the film", "Why? <b>é中</b>"]
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
_OPT = {**_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64}
_FALCON = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_NEO = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 128}
_NO_CAP = {"attn_logit_softcapping": None}
CASES = {
    "arcee": ("arcee", _SIZES),
    "bloom": ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "bloom-of-six-heads": ("bloom", {"hidden_size": 96, "n_layer": 1, "n_head": 6}),
    "codegen": ("codegen", {**_GPT, "n_ctx": 128, "rotary_dim": 8}),
    "cohere": ("cohere", _GROUPED),
    "falcon": ("falcon", _FALCON),
    "falcon-alibi": ("falcon", {**_FALCON, "alibi": True, "parallel_attn": False, "bias": True}),
    "gemma2": ("gemma2", {**_GROUPED, "head_dim": 16, "sliding_window": 6, **_NO_CAP}),
    "glm": ("glm", {**_GROUPED, "head_dim": 16}),
    "gpt_bigcode": ("gpt_bigcode", _GPT),
    "gpt_bigcode-of-many": ("gpt_bigcode", {**_GPT, "multi_query": False}),
    "gpt_neo-local": (
        "gpt_neo",
        {**_NEO, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    ),
    "gptj": ("gptj", {**_GPT, "rotary_dim": 8}),
    "helium": ("helium", {**_GROUPED, "head_dim": 16}),
    "mpt": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}),
    "llama": ("llama", _GROUPED),
    "mistral-sliding": ("mistral", {**_GROUPED, "sliding_window": 6}),
    "nemotron": ("nemotron", _GROUPED),
    "olmo": ("olmo", {**_SIZES, "clip_qkv": 1.0}),
    "olmo2": ("olmo2", _SIZES),
    "opt": ("opt", _OPT),
    "opt-post-norm": ("opt", {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "phi": ("phi", _SIZES),
    "stablelm": ("stablelm", {**_GROUPED, "use_qkv_bias": True}),
    "stablelm-parallel": ("stablelm", {**_GROUPED, "use_parallel_residual": True}),
}


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def made(folder, family, fields, torch):
    """Save a random checkpoint; return transformers' model of it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = AutoConfig.for_model(family, vocab_size=len(byte_pieces()), **special, **fields)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * (0.2 if weight.dim() == 2 else 0.1))
    model.save_pretrained(folder)
    tiny_text.write_byte_bpe(folder, "json")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return model


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory, torch):
    """Give transformers' model, and the bundle that was exported from it."""
    folder = tmp_path_factory.mktemp(request.param)
    family, fields = CASES[request.param]
    model = made(folder, family, fields, torch)
    engine = Engine.OPTIMUM if family in DECODERS else Engine.AUTO
    return model, export(open_checkpoint(str(folder)), folder / "bundle", engine=engine)


def test_it_is_traced_and_held_to_transformers(case):
    _, bundle = case
    step = bundle.manifest.history[0]
    assert step.options["engine"] == Engine.OPTIMUM.value
    assert step.parity[0].relative < TOLERANCE


def test_a_folder_of_optimums_graph_alone_is_adopted(tmp_path, torch):
    from optimum.exporters.onnx import main_export

    model, task = made(tmp_path, "phi", _SIZES, torch), "text-generation-with-past"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main_export(str(tmp_path), output=tmp_path / "onnx", task=task, do_validation=False)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    bundle = export(open_checkpoint(str(tmp_path)), tmp_path / "bundle")
    assert bundle.manifest.history[0].options["engine"] == Engine.ADOPT.value
    ids = np.random.default_rng(0).integers(3, len(byte_pieces()), (1, LENGTH))
    with torch.inference_mode():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    near(CachedGraph(bundle)(ids, keep=LENGTH), wanted, wanted)


def test_a_soft_cap_of_the_scores_is_not_left_out(tmp_path, torch):
    made(tmp_path, "gemma2", {**_GROUPED, "head_dim": 16}, torch)
    with pytest.raises(UnsupportedError, match="without attn_logit_softcapping; use --engine nat"):
        export(open_checkpoint(str(tmp_path)), tmp_path / "bundle", engine=Engine.OPTIMUM)


def test_ragged_batches_chunks_and_steps_give_the_logits_of_transformers(case, torch):
    model, bundle = case
    texts = np.random.default_rng(0).integers(3, len(byte_pieces()), (3, LENGTH))
    with torch.inference_mode():
        wanted = model(torch.from_numpy(texts)).logits.numpy()
    graph = CachedGraph(bundle, slots=3)
    for slot, ends in enumerate([(5,), (7, 19), (1, 9, 30)]):
        for start, end in zip((0, *ends), ends, strict=False):
            found = graph([texts[slot, start:end]], slot=slot, keep=end - start)[0]
            near(found, wanted[slot, start:end], wanted)
    while graph.lengths.max() < LENGTH:
        at = np.arange(3), graph.lengths.copy()
        near(graph(texts[at][:, None])[:, 0], wanted[at], wanted)


def near(found, wanted, logits):
    assert np.abs(found - wanted).max() < TOLERANCE * np.ptp(logits)


def test_greedy_text_of_a_batch_is_that_of_transformers(case, torch):
    from transformers import AutoTokenizer

    model, bundle = case
    tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path or bundle.path.parent)
    with lmonnx.load(bundle.path, threads=1) as ours:
        found = ours(PROMPTS, SamplingParams(max_new_tokens=TOKENS))
    for prompt, completion in zip(PROMPTS, found, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        options = {"do_sample": False, "max_new_tokens": TOKENS, "pad_token_id": 1}
        row = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist()
        assert list(completion.token_ids) == row[: len(completion.token_ids)]
        assert completion.completion_tokens == len(row) or row[-1] == 2
