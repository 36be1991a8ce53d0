"""config.json → plan, family by family: defaults, nulls, windows, contexts and the tables."""

from pathlib import Path

import numpy as np
import pytest

from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.export.native.decoders.build import read_decoder
from lmonnx.errors import StageError, UnsupportedError

pytestmark = pytest.mark.compiler

FIELDS = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FULL, SLIDING = "full_attention", "sliding_attention"
LONG = {
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}


def read(family, **changes):
    return read_decoder(Checkpoint(Path(), {"model_type": family, **FIELDS, **changes}, "tiny"))


def windows(decoder):
    return [layer.window for layer in decoder.layers]


@pytest.mark.parametrize(
    ("changes", "window"), [({}, 4096), ({"sliding_window": None}, 0), ({"sliding_window": 7}, 7)]
)
def test_mistral_has_a_window_unless_it_is_null(changes, window):
    assert windows(read("mistral", **changes)) == [window] * 6


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [0] * 6),
        ({"sliding_window": 7}, [0] * 6),
        (
            {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 4},
            [0] * 4 + [7] * 2,
        ),
        ({"use_sliding_window": True, "max_window_layers": 5}, [0] * 5 + [4096]),
        ({"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None}, [0] * 6),
        (
            {"use_sliding_window": True, "sliding_window": 7, "layer_types": [SLIDING, FULL] * 3},
            [7, 0] * 3,
        ),
        ({"layer_types": [FULL] * 6}, [0] * 6),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwens_upper_layers_may_have_a_window(family, changes, wanted):
    assert windows(read(family, **changes)) == wanted


@pytest.mark.parametrize(
    ("family", "wanted"),
    [("gemma2", [9, 0, 9, 0, 9, 0]), ("gemma3_text", [9, 9, 9, 9, 9, 0])],
)
def test_gemmas_layers_take_turns(family, wanted):
    assert windows(read(family, sliding_window=9)) == wanted


def test_gemma3s_local_layers_have_rotations_of_their_own():
    decoder = read("gemma3_text", sliding_window=9, sliding_window_pattern=2)
    assert [layer.rope for layer in decoder.layers] == ["local_rope", "rope"] * 3
    slowest = {name: rope.frequencies[-1] for name, rope in decoder.ropes.items()}
    assert slowest["rope"] < slowest["local_rope"]


def test_smollm3_leaves_every_fourth_layer_without_positions():
    assert [layer.rope for layer in read("smollm3").layers] == ["rope"] * 3 + ["", "rope", "rope"]
    stated = read("smollm3", no_rope_layers=[0, 1, 1, 1, 1, 0])
    assert [layer.rope for layer in stated.layers] == ["", *["rope"] * 4, ""]


@pytest.mark.parametrize(
    ("family", "changes", "context"),
    [
        ("llama", {}, 512),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, 512),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}, 512),
        ("phi3", {"original_max_position_embeddings": 512}, 512),
        ("phi3", {"rope_scaling": {"type": "longrope", **LONG}}, 512),
        (
            "phi3",
            {
                "rope_scaling": {"type": "longrope", **LONG},
                "original_max_position_embeddings": 128,
            },
            128,
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "su", **LONG}, "original_max_position_embeddings": 128},
            128,
        ),
    ],
)
def test_the_context_is_as_far_as_the_frequencies_hold(family, changes, context):
    assert read(family, **changes).context == context


def test_longrope_scales_what_it_turns_by_how_far_the_context_was_stretched():
    fields = {"type": "longrope", **LONG}
    rope = read("phi3", rope_scaling=fields, original_max_position_embeddings=128).ropes["rope"]
    assert rope.factor == pytest.approx((1 + np.log(4) / np.log(128)) ** 0.5)


@pytest.mark.parametrize(
    "scaling", [{}, {"rope_type": "linear", "factor": 4.0}, {"rope_type": "default"}]
)
def test_newer_files_state_base_and_scaling_in_one_object(scaling):
    newer = read("llama", rope_parameters={"rope_theta": 7000.0, **scaling})
    older = read("llama", rope_theta=7000.0, rope_scaling=scaling or None)
    assert newer.ropes == older.ropes


def test_the_tables_are_cosines_and_sines_of_position_times_frequency():
    cos, sin = read("llama").ropes["rope"].tables(512)
    angles = np.arange(512)[:, None] / 10000 ** (np.arange(0, 16, 2) / 16)
    assert cos.shape == sin.shape == (512, 8) and cos.dtype == np.float32
    assert np.abs(cos - np.cos(angles)).max() < 1e-4 and np.abs(sin - np.sin(angles)).max() < 1e-4


def test_granites_factors_go_into_the_weights():
    decoder = read(
        "granite", residual_multiplier=0.5, logits_scaling=8.0, attention_multiplier=0.25
    )
    assert decoder.attention.out.factor == decoder.ffn.down.factor == 0.5
    assert decoder.logits_factor == 0.125 and decoder.attention.scale == 0.25


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", False), ("smollm3", True), ("gemma", True), ("gemma2", True), ("gemma3_text", True)]
    + [(family, False) for family in ("mistral", "qwen2", "qwen3", "phi3", "granite")],
)
def test_the_head_is_tied_where_transformers_ties_it_unasked(family, tied):
    assert read(family).tied is tied


@pytest.mark.parametrize(
    ("family", "head"),
    [("llama", 16), ("qwen2", 16), ("qwen3", 128), ("gemma", 256), ("gemma2", 256)],
)
def test_the_default_of_head_dim_is_the_familys(family, head):
    assert read(family).attention.head == head


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("qwen2", {"layer_types": [SLIDING] * 6}, "no sliding_window is stated or in use"),
        ("qwen2", {"layer_types": [FULL] * 5}, "layer_types is of 5 layers, must be of 6"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 6}, "has 'chunked_attention'"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping"),
        ("phi3", {"rope_scaling": {"type": "longrope", **LONG, "short_factor": [1]}}, "of 8 numb"),
        ("phi3", {"attention_bias": True}, "attention_bias is True"),
        ("mistral", {"layer_types": [FULL] * 6}, "the field 'layer_types'"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved is True"),
        ("llama", {"quantization_config": {"bits": 4}}, "the field 'quantization_config'"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "must be a list of 6 numbers"),
        ("gpt_neox", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(family, changes, said):
    with pytest.raises((UnsupportedError, StageError), match=said):
        read(family, **changes)
