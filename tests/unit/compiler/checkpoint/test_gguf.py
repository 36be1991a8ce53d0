"""GGUF files: configuration, tensors and the choice of file, for every architecture."""

import gc
import shutil
import tracemalloc

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.checkpoint.gguf_header import read_header
from lmonnx.compiler.checkpoint.gguf_tensor import open_tensors
from lmonnx.errors import InputError, StageError, UnsupportedError
from tests import tiny_text
from tests.gguf_files import byte_level_text, read_json, write_gguf
from tests.gguf_models import CONFIGS, VOCABULARY, arrays_of, config_of
from tests.gguf_raw import raw_file, raw_tensor

pytestmark = pytest.mark.compiler

BLOCKS = [
    GGMLQuantizationType[name]
    for name in """
    Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS
    IQ3_S IQ4_NL IQ4_XS
    """.split()
]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 4.0, 8.5],
}
VARIANTS = [
    *((family, {}) for family in CONFIGS),
    *((family, {"tie_word_embeddings": False}) for family in CONFIGS if "gemma" not in family),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 4, "head_dim": 16}),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("llama", {"rope_scaling": YARN}),
    ("llama", {"rope_scaling": {**YARN, "attention_factor": 0.9, "beta_fast": 16.0}}),
    ("llama", {"rope_scaling": LLAMA3, "head_dim": 64, "rope_theta": 500000.0}),
    ("llama", {"rope_scaling": {**LLAMA3, "factor": 32.0}, "head_dim": 64, "rope_theta": 5e5}),
    ("qwen3", {"attention_bias": True}),
    ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    ("gemma3_text", {"final_logit_softcapping": 3.0, "num_hidden_layers": 6,
                     "layer_types": [*["sliding_attention"] * 5, "full_attention"]}),
    ("phi3", {"partial_rotary_factor": 0.5, "sliding_window": 6}),
    ("phi3", {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32}),
    ("gpt_neox", {"rotary_pct": 1.0, "use_parallel_residual": True}),
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    tiny_text.write_byte_bpe(folder, "json")
    tokenizer = read_json(folder / "tokenizer.json")
    return byte_level_text(tokenizer, "gpt-2", VOCABULARY, bos=0, eos=2, padding=1)


@pytest.fixture
def llama(tmp_path, text):
    config = config_of("llama")
    return write_gguf(tmp_path / "tiny.gguf", config, arrays_of(config), text)


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_configuration_and_tensors_are_those_that_were_written(tmp_path, text, family, changes):
    config = config_of(family, **changes)
    arrays = arrays_of(config)
    checkpoint = open_checkpoint(str(write_gguf(tmp_path / "x.gguf", config, arrays, text)))
    weights = checkpoint.weights()
    assert {name: checkpoint.config.get(name) for name in config} == config
    assert weights.names() == arrays.keys()
    for name, array in arrays.items():
        assert weights.shape(name) == array.shape
        # A norm's 1 + w - 1 rounds in Gemma's.
        np.testing.assert_allclose(weights.read(name), array, rtol=0, atol=2e-7)


def test_rope_factors_that_fit_no_usual_rule_are_recovered_up_to_what_they_tell(tmp_path, text):
    scaling = {**LLAMA3, "low_freq_factor": 2.0, "high_freq_factor": 6.0}
    changes = {"rope_scaling": scaling, "head_dim": 64, "rope_theta": 500000.0}
    config = config_of("llama", **changes)
    path = write_gguf(tmp_path / "x.gguf", config, arrays_of(config), text)
    # Halving low, high and the original length together changes no frequency.
    halved = {"low_freq_factor": 1.0, "high_freq_factor": 3.0}
    halved["original_max_position_embeddings"] = 4096
    assert open_checkpoint(str(path)).config["rope_scaling"] == {**scaling, **halved}


@pytest.mark.parametrize(
    "kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16"], ids=lambda kind: kind
)
def test_quantized_tensors_are_the_numbers_that_their_blocks_mean(tmp_path, text, kind):
    config, number = config_of("qwen2"), GGMLQuantizationType[kind]
    arrays = arrays_of(config)
    path = write_gguf(tmp_path / "x.gguf", config, arrays, text, quantized=number)
    weights = open_checkpoint(str(path)).weights()
    for name, array in arrays.items():
        found = weights.read(name)
        if array.ndim == 2:
            array = quants.dequantize(quants.quantize(array, number), number).reshape(array.shape)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array)


def test_a_quantized_tensor_larger_than_a_chunk_is_read_whole(tmp_path, text):
    config = config_of("qwen2", vocab_size=2**16)  # 2 Mi numbers
    arrays = arrays_of(config)
    kind = GGMLQuantizationType.Q8_0
    path = write_gguf(tmp_path / "x.gguf", config, arrays, text, quantized=kind)
    name = "model.embed_tokens.weight"
    wanted = quants.dequantize(quants.quantize(arrays[name], kind), kind)
    np.testing.assert_array_equal(open_checkpoint(str(path)).weights().read(name), wanted)


def test_reading_every_tensor_holds_one_at_a_time(tmp_path, text):
    config = config_of("qwen2", vocab_size=2**18, tie_word_embeddings=False)  # 32 MiB each
    arrays = arrays_of(config)
    kind = GGMLQuantizationType.Q8_0
    path = write_gguf(tmp_path / "x.gguf", config, arrays, text, quantized=kind)
    del arrays
    tracemalloc.start()
    weights = open_checkpoint(str(path)).weights()
    for name in weights:
        weights.read(name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 * (32 + 24)


def test_a_head_that_is_the_embeddings_again_is_left_out(tmp_path, text):
    config = config_of("gpt2", tie_word_embeddings=False)
    arrays = arrays_of(config)
    arrays["lm_head.weight"] = arrays["transformer.wte.weight"]
    checkpoint = open_checkpoint(str(write_gguf(tmp_path / "x.gguf", config, arrays, text)))
    assert checkpoint.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in checkpoint.weights()


def test_the_files_beside_the_weights_are_there_as_long_as_the_checkpoint(tmp_path, text):
    config = config_of("llama")
    extra = {"general.license": "apache-2.0", "tokenizer.chat_template": "{{ messages }}"}
    path = write_gguf(tmp_path / "tiny-llama.gguf", config, arrays_of(config), text, extra=extra)
    checkpoint = open_checkpoint(str(path))
    folder = checkpoint.path
    assert (checkpoint.repo, checkpoint.license) == ("tiny-llama", "apache-2.0")
    assert checkpoint.origin == path
    assert checkpoint.json_file("config.json") == checkpoint.config
    assert checkpoint.config["eos_token_id"] == 2
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    assert checkpoint.json_file("generation_config.json") == ids
    settings = checkpoint.json_file("tokenizer_config.json")
    assert (settings["eos_token"], settings["chat_template"]) == ("</s>", "{{ messages }}")
    del checkpoint
    gc.collect()
    assert not folder.exists()


def test_a_folder_means_the_only_gguf_file_in_it(llama):
    assert open_checkpoint(str(llama.parent)).repo == "tiny"


def test_a_file_without_the_suffix_is_known_by_its_first_bytes(llama):
    path = llama.rename(llama.with_name("0f3a"))
    assert open_checkpoint(str(path)).architecture == "llama"


def test_two_gguf_files_in_a_folder_are_a_choice_to_be_made(llama):
    shutil.copyfile(llama, llama.with_name("other.gguf"))
    with pytest.raises(StageError, match=r"give the path of one: other\.gguf, tiny\.gguf"):
        open_checkpoint(str(llama.parent))


def test_other_weights_in_the_folder_come_first(llama, bert_checkpoint):
    for file in bert_checkpoint.iterdir():
        shutil.copyfile(file, llama.parent / file.name)
    assert open_checkpoint(str(llama.parent)).architecture == "bert"


def test_a_file_has_no_revision(llama):
    with pytest.raises(InputError, match="leave it out"):
        open_checkpoint(str(llama), revision="main")


REFUSED = {
    "mixture of experts": ("llama", {"llama.expert_count": 8}, "expert_count is 8"),
    "unknown key": ("llama", {"llama.swiglu_clamp_exp": 1.0}, "swiglu_clamp_exp is not known"),
    "other architecture": ("llama", {"general.architecture": "mamba"}, "only llama, smollm3"),
    "adapter": ("llama", {"general.type": "adapter"}, "type 'adapter'"),
    "one of several parts": ("llama", {"split.count": 3}, "llama-gguf-split --merge x.gguf"),
    "embedder": ("qwen3", {"qwen3.pooling_type": 3}, "pooling_type is 3"),
    "two head sizes": ("llama", {"llama.attention.value_length": 4}, "value_length is 4"),
    "other scaling": ("llama", {"llama.rope.scaling.type": "ntk"}, "only linear and yarn"),
    "no rope": ("granite", {"granite.rope.scaling.finetuned": False}, "finetuned is False"),
    "per layer": ("llama", {"llama.attention.head_count_kv": [2, 1, 2]}, "differs between layers"),
    "per layer, of numbers in words": ("llama", {"llama.block_count": ["3"]}, "whole number"),
    "no layers": ("llama", {"llama.block_count": 0}, "block_count is 0"),
    "too many layers": (
        "llama",
        {"llama.block_count": 4097},
        "must be a whole number of 1 to 4096",
    ),
    "fewer layers than tensors": ("llama", {"llama.block_count": 2}, "of 2 layers has no place"),
    "another head count": ("llama", {"llama.attention.head_count": 2}, "rows, where the keys say"),
    "no base": ("llama", {"llama.rope.freq_base": 0.0}, "must be a number above 0"),
    "longrope of one": (
        "phi3",
        {"phi3.rope.scaling.original_context_length": 1},
        "original_context_length is 1",
    ),
    "no number": ("llama", {"llama.rope.freq_base": float("nan")}, "must be a number"),
    "text for a number": ("llama", {"llama.embedding_length": "32"}, "whole number of 1"),
}


@pytest.mark.parametrize(("family", "extra", "match"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path, text, family, extra, match):
    config = config_of(family)
    path = write_gguf(tmp_path / "x.gguf", config, arrays_of(config), text, extra=extra)
    with pytest.raises((StageError, UnsupportedError), match=match):
        open_checkpoint(str(path))


def test_a_tensor_that_the_graph_has_no_place_for_is_refused(tmp_path, text):
    config = config_of("llama")
    arrays = {**arrays_of(config), "blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    path = write_gguf(tmp_path / "x.gguf", config, arrays, text)
    with pytest.raises(UnsupportedError, match=r"the tensor blk\.0\.attn_sinks\.weight"):
        open_checkpoint(str(path))


def test_a_bias_on_some_of_the_products_is_refused(tmp_path, text):
    config = config_of("llama", attention_bias=True)
    arrays = {k: v for k, v in arrays_of(config).items() if not k.endswith("o_proj.bias")}
    path = write_gguf(tmp_path / "x.gguf", config, arrays, text)
    with pytest.raises(UnsupportedError, match="only some of attn_q"):
        open_checkpoint(str(path))


@pytest.mark.parametrize(
    "factors",
    [
        [1, 3, 2, 5],
        [1, 1, 1],
        [1, 2, float("nan"), 8],
        [0, 1, 2, 8],
        [1, float("inf"), 8, 8],
        [8, 4, 2, 1],
        [1, 2, 2, 8],
    ],
)
@pytest.mark.parametrize("theta", [10000.0, 1.0, 1e-30])
def test_divisors_of_another_rule_than_llama3s_are_refused(tmp_path, text, factors, theta):
    config = config_of("llama", rope_theta=theta)
    arrays = {**arrays_of(config), "rope_freqs.weight": np.array(factors, np.float32)}
    path = write_gguf(tmp_path / "x.gguf", config, arrays, text)
    with pytest.raises(UnsupportedError, match="another rule than Llama 3's"):
        open_checkpoint(str(path))


def test_more_tokens_than_embeddings_are_refused(tmp_path, text):
    config = config_of("llama", vocab_size=VOCABULARY - 1)
    path = write_gguf(tmp_path / "x.gguf", config, arrays_of(config), text)
    with pytest.raises(StageError, match="280 tokens and 279 embeddings"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("blocks", [1, 33, 9000])
def test_blocks_of_every_type_are_decoded_as_the_gguf_package_does(tmp_path, kind, blocks):
    size, nbytes = GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(1).bytes(blocks * nbytes)
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_file([], [raw_tensor("w", (size, blocks), kind, 0)], data))
    with np.errstate(all="ignore"):
        wanted = quants.dequantize(np.frombuffer(data, np.uint8).reshape(blocks, nbytes), kind)
    found = open_tensors(read_header(path))["w"].read()
    assert found.shape == (blocks, size)
    np.testing.assert_array_equal(found, wanted)
