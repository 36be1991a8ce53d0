"""Decoders: the graph's contract, its names, what is refused, and a manual computation."""

import tracemalloc

import numpy as np
import pytest

from lmonnx.bundle.manifest import CacheSpec, Side, Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.compiler.export.native import FAMILIES
from lmonnx.compiler.export.native.decoders import DECODERS
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.quantize.layers import find_layers
from lmonnx.errors import StageError, UnsupportedError
from tests import tiny
from tests.cached import CachedGraph
from tests.tiny_decoders import CONTEXT, GPT2, LLAMA, VOCABULARY, write_gpt2, write_llama

pytestmark = pytest.mark.compiler

WRITERS = {"llama": write_llama, "gpt2": write_gpt2}
IDS = np.random.default_rng(0).integers(0, VOCABULARY, 24)


def exported(folder, family="llama", **changes):
    source = WRITERS[family](folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


def graph_of(bundle):
    return load_graph(bundle.file("onnx/model.onnx"))


def by_hand(bundle):
    """Return the logits of IDS by the formulas of Llama, in float64: (S, V)."""
    source = open_checkpoint(str(bundle.path.parent / "source"))
    tensors, config = source.weights(), source.config
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    angles = np.arange(len(IDS))[:, None] / 10000 ** (np.arange(0, size, 2) / size)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]  # (S, 1, D/2)

    def read(name):
        return tensors.read(name).astype(np.float64)

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * read(f"{name}.weight")

    def turn(x):
        first, second = np.split(x, 2, -1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    x = read("model.embed_tokens.weight")[IDS]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm")
        q, k, v = (
            (h @ read(f"{at}.self_attn.{part}_proj.weight").T).reshape(len(IDS), -1, size)
            for part in "qkv"
        )
        k, v = (np.repeat(part, heads // kv, 1) for part in (turn(k), v))
        scores = np.einsum("qhd,khd->hqk", turn(q), k) / size**0.5
        scores = np.where(np.tri(len(IDS), dtype=bool), np.exp(scores), 0)
        seen = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
        x = x + seen.reshape(len(IDS), -1) @ read(f"{at}.self_attn.o_proj.weight").T
        h = norm(x, f"{at}.post_attention_layernorm")
        gate, up = (h @ read(f"{at}.mlp.{part}_proj.weight").T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ read(f"{at}.mlp.down_proj.weight").T
    return norm(x, "model.norm") @ read("model.embed_tokens.weight").T


# The contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WRITERS)
def test_the_graph_has_the_inputs_and_outputs_of_decision_11(tmp_path, family):
    bundle = exported(tmp_path, family)
    spec, cache = bundle.manifest.graphs["model"], bundle.manifest.generation.cache
    heads, size = cache.heads, cache.head_size
    names = [f"{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    past = ("float32", ("batch_size", heads, "past_sequence_length", size))
    present = ("float32", ("batch_size", heads, "total_sequence_length", size))
    assert {t.name: (t.dtype, t.shape) for t in spec.inputs} == {
        "input_ids": ("int64", ("batch_size", "sequence_length")),
        "seqlens_k": ("int32", ("batch_size",)),
        "total_sequence_length": ("int32", ()),
        "logits_to_keep": ("int64", ()),
        **{f"past_key_values.{name}": past for name in names},
    }
    assert {t.name: (t.dtype, t.shape) for t in spec.outputs} == {
        "logits": ("float32", ("batch_size", "kept_length", VOCABULARY)),
        **{f"present.{name}": present for name in names},
    }
    assert spec.optimized


def test_the_manifest_says_how_a_decoder_generates(tmp_path):
    manifest = exported(tmp_path).manifest
    assert manifest.task is Task.TEXT_GENERATION and manifest.head is None
    assert manifest.text.max_length == manifest.generation.context == CONTEXT
    assert manifest.text.source.padding_side is Side.RIGHT
    assert manifest.generation.cache == CacheSpec(layers=2, heads=2, head_size=16)
    assert manifest.generation.vocabulary == VOCABULARY


def test_the_logits_are_those_of_the_formulas(tmp_path):
    bundle = exported(tmp_path)
    wanted = by_hand(bundle)
    given = CachedGraph(bundle)([IDS], keep=len(IDS))[0]
    assert np.abs(given - wanted).max() < 2e-6 * np.ptp(wanted)


@pytest.mark.parametrize("family", WRITERS)
def test_a_text_at_once_in_steps_and_in_chunks_has_the_same_logits(tmp_path, family):
    bundle = exported(tmp_path, family)
    whole = CachedGraph(bundle)([IDS], keep=len(IDS))[0]
    stepped, chunked = CachedGraph(bundle), CachedGraph(bundle)
    steps = np.stack([stepped([[i]])[0, 0] for i in IDS])
    chunks = [chunked([part], keep=len(part))[0] for part in np.split(IDS, [5, 6, 20])]
    for other in (steps, np.concatenate(chunks)):
        assert np.abs(other - whole).max() < 2e-6 * np.ptp(whole)


@pytest.mark.parametrize("family", WRITERS)
def test_rows_of_different_lengths_are_decoded_as_each_alone(tmp_path, family):
    bundle = exported(tmp_path, family)
    texts = [IDS[:3], IDS[:17], IDS[4:9]]
    graph = CachedGraph(bundle, slots=4)
    for slot, text in enumerate(texts):
        graph([text[:-1]], slot=slot, keep=0)
    together = graph([[text[-1]] for text in texts])[:, 0]
    alone = np.stack([CachedGraph(bundle)([text])[0, 0] for text in texts])
    assert np.abs(together - alone).max() < 2e-6 * np.ptp(alone)


@pytest.mark.parametrize(("keep", "rows"), [(0, 0), (1, 1), (5, 5), (24, 24), (25, 24), (99, 24)])
def test_the_last_logits_that_are_asked_for_are_given(tmp_path, keep, rows):
    bundle = exported(tmp_path)
    whole = CachedGraph(bundle)([IDS], keep=len(IDS))[0]
    given = CachedGraph(bundle)([IDS], keep=keep)
    assert given.shape == (1, rows, VOCABULARY)
    assert np.abs(given[0] - whole[len(IDS) - rows :]).max(initial=0) < 2e-6 * np.ptp(whole)


def test_a_cache_in_place_is_written_at_the_rows_end_and_nowhere_else(tmp_path):
    graph = CachedGraph(exported(tmp_path), slots=3)
    before = {name: cache.copy() for name, cache in graph.caches.items()}
    graph([IDS[:6]], slot=1, keep=0)
    for name, cache in graph.caches.items():
        changed = (cache != before[name]).any(axis=(1, 3))
        assert changed[1, :6].all() and changed.sum() == 6


# Names and storage -------------------------------------------------------------------------------


def test_products_are_named_after_the_checkpoints_modules(tmp_path):
    layers = find_layers(graph_of(exported(tmp_path)))
    assert [layer.name for layer in layers[4:]] == [
        "/model/layers.1/self_attn/qkv_proj/MatMul",
        "/model/layers.1/self_attn/o_proj/MatMul",
        "/model/layers.1/mlp/gate_up_proj/MatMul",
        "/model/layers.1/mlp/down_proj/MatMul",
        "/lm_head/FusedMatMul",
    ]
    assert layers[4].weight == "model.layers.1.self_attn.qkv_proj.weight"
    assert layers[-1].weight == "model.embed_tokens.weight"


def test_a_tied_table_is_stored_once(tmp_path):
    tied = exported(tmp_path / "a")
    untied = exported(tmp_path / "b", tie_word_embeddings=False)
    sizes = [bundle.file("onnx/model.onnx_data").stat().st_size for bundle in (tied, untied)]
    assert 0 <= sizes[1] - sizes[0] - 4 * VOCABULARY * 64 < 4096
    names = [node.name for node in graph_of(untied).graph.node]
    assert "/lm_head/MatMul" in names


def test_gpt2_without_the_prefix_of_its_names_is_the_same(tmp_path):
    def rename(arrays):
        for name in list(arrays):
            arrays[name.removeprefix("transformer.")] = arrays.pop(name)

    one, two = exported(tmp_path / "a", "gpt2"), exported(tmp_path / "b", "gpt2", edit=rename)
    paths = [bundle.file("onnx/model.onnx_data") for bundle in (one, two)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_export_is_the_same_to_the_byte_twice(tmp_path):
    one, two = exported(tmp_path / "a"), exported(tmp_path / "b", form="sharded")
    for name in ("onnx/model.onnx", "onnx/model.onnx_data"):
        assert one.file(name).read_bytes() == two.file(name).read_bytes()


def test_tensors_are_read_a_product_at_a_time(tmp_path):
    wide = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6}
    source = write_llama(tmp_path / "source", **wide)
    checkpoint = open_checkpoint(str(source))
    tracemalloc.start()
    bundle = export(checkpoint, tmp_path / "bundle", verify=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    product = 4 * 512 * 2 * 1024
    assert peak < 3 * product < bundle.file("onnx/model.onnx_data").stat().st_size / 3


# What is refused ---------------------------------------------------------------------------------


def refused(folder, family="llama", **changes):
    with pytest.raises((UnsupportedError, StageError)) as caught:
        exported(folder, family, **changes)
    assert not (folder / "bundle").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "opt"}, "no decoder of the architecture 'opt' is built here, only gemma, "),
        ({"head_dim": 12}, "heads of 12; .* multiples of 8"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3, which does not divide 4"),
        ({"clip_qkv": 8.0}, r"the field 'clip_qkv' \(8.0\) is not known"),
        ({"partial_rotary_factor": 0.5}, "the field 'partial_rotary_factor'"),
        ({"hidden_act": "xielu"}, "hidden_act is 'xielu'; supported: gelu, "),
        ({"rope_scaling": {"rope_type": "odd"}}, "rope_type is 'odd'; supported: default, "),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "odd": 1}}, "the field 'odd'"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', must be an object"),
        ({"tie_word_embeddings": "yes"}, "must be true or false"),
        ({"vocab_size": VOCABULARY + 1}, r"embed_tokens\.weight has the shape"),
    ],
)
def test_what_is_not_built_is_refused_by_name(tmp_path, changes, said):
    source = write_llama(tmp_path / "source")
    config = source / "config.json"
    tiny.write_json(config, {**LLAMA, **changes})
    with pytest.raises((UnsupportedError, StageError), match=said):
        export(open_checkpoint(str(source)), tmp_path / "bundle", verify=False)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    "changes",
    [{"scale_attn_by_inverse_layer_idx": True}, {"add_cross_attention": True}, {"odd": 1}],
)
def test_gpt2_refuses_what_it_does_not_compute(tmp_path, changes):
    assert next(iter(changes)) in refused(tmp_path, "gpt2", **changes)


def test_an_untied_head_that_is_missing_is_named(tmp_path):
    said = refused(
        tmp_path, tie_word_embeddings=False, edit=lambda arrays: arrays.pop("lm_head.weight")
    )
    assert "no tensor lm_head.weight" in said


def test_an_encoder_asked_to_generate_is_refused(tmp_path):
    source = tiny.write_bert(tmp_path / "source")
    with pytest.raises(UnsupportedError, match="no decoder of the architecture 'bert'"):
        export(
            open_checkpoint(str(source)), tmp_path / "bundle", task="text-generation", verify=False
        )


def test_a_decoder_asked_for_an_encoders_task_is_refused(tmp_path):
    source = write_llama(tmp_path / "source")
    with pytest.raises(UnsupportedError, match="does not build 'llama'"):
        export(
            open_checkpoint(str(source)),
            tmp_path / "bundle",
            task="text-classification",
            engine=Engine.NATIVE,
            verify=False,
        )


def test_no_architecture_is_both_an_encoder_and_a_decoder():
    assert not set(FAMILIES) & set(DECODERS)
    assert GPT2["model_type"] in DECODERS
