"""Encoder-decoders: the contract of decision 13, weights once, what is refused, a manual sum."""

import numpy as np
import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.export.native.seq2seq.positions import split_sinusoids
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.quantize.layers import find_layers
from tests.paired import Answers, Sources
from tests.tiny_seq2seq import VOCABULARY, write_marian, write_t5

pytestmark = pytest.mark.compiler

PAD, SEED = 1, 5
WRITERS = {"marian": write_marian, "t5": write_t5}
SOURCES = [[5, 9, 4, 7, 8, 6, 9, 9, 3, 2], [7, 2], [6, 6, 8, 2]]
APART = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 300}


def exported(folder, family="marian", **changes):
    source = WRITERS[family](folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "bundle", verify=False)


def graph_of(bundle, role="decoder"):
    return load_graph(bundle.file(bundle.manifest.graphs[role].file))


def begun(bundle, *, sources=SOURCES, beams=1):
    graphs, cache = bundle.manifest.graphs, bundle.manifest.generation.cache
    read = Sources(bundle.file(graphs["encoder"].file), sources, pad=PAD)
    return Answers(bundle.file(graphs["decoder"].file), cache, read, beams=beams)


def drawn(rows, length):
    return np.random.default_rng(SEED).integers(3, VOCABULARY, (rows, length))


def near(given, wanted, tolerance=1e-5):
    return np.abs(given - wanted).max() < tolerance * np.ptp(wanted)


def marian_by_hand(folder, source, answer):
    """Return the logits of an answer by the formulas of Marian, in float64: (Q, V)."""
    checkpoint = open_checkpoint(str(folder))
    tensors, config = checkpoint.weights(), checkpoint.config
    hidden, heads = config["d_model"], config["decoder_attention_heads"]

    def read(name):
        return tensors.read(name).astype(np.float64)

    def linear(x, name):
        return x @ read(f"{name}.weight").T + read(f"{name}.bias")

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * read(f"{name}.weight") + read(f"{name}.bias")

    def attend(x, y, name, *, causal=False):
        q, k, v = (
            linear(part, f"{name}.{letter}_proj").reshape(len(part), heads, -1)
            for part, letter in ((x, "q"), (y, "k"), (y, "v"))
        )
        scores = np.exp(np.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5)
        scores = scores * np.tri(len(x)) if causal else scores
        seen = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), v)
        return norm(x + linear(seen.reshape(len(x), -1), f"{name}.out_proj"), f"{name}_layer_norm")

    def feed(x, at):
        inner = linear(x, f"{at}.fc1")
        fed = linear(inner / (1 + np.exp(-inner)), f"{at}.fc2")
        return norm(x + fed, f"{at}.final_layer_norm")

    words = read("model.shared.weight")
    x, y = (
        words[ids] * hidden**0.5 + split_sinusoids(len(ids), hidden) for ids in (source, answer)
    )
    for layer in range(config["encoder_layers"]):
        at = f"model.encoder.layers.{layer}"
        x = feed(attend(x, x, f"{at}.self_attn"), at)
    for layer in range(config["decoder_layers"]):
        at = f"model.decoder.layers.{layer}"
        y = attend(y, y, f"{at}.self_attn", causal=True)
        y = feed(attend(y, x, f"{at}.encoder_attn"), at)
    return y @ words.T + read("final_logits_bias")


# The contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WRITERS)
def test_the_graphs_have_the_inputs_and_outputs_of_decision_13(tmp_path, family):
    bundle = exported(tmp_path, family)
    graphs, cache = bundle.manifest.graphs, bundle.manifest.generation.cache
    cross = {
        f"cross_key_values.{i}.{part}": ("float32", ("sources", cache.heads, "source_length", 8))
        for i in range(2)
        for part in ("key", "value")
    }
    assert {t.name: (t.dtype, t.shape) for t in graphs["encoder"].inputs} == {
        "input_ids": ("int64", ("sources", "source_length")),
        "source_lengths": ("int32", ("sources",)),
    }
    assert {t.name: (t.dtype, t.shape) for t in graphs["encoder"].outputs} == cross
    inputs = {t.name: (t.dtype, t.shape) for t in graphs["decoder"].inputs}
    assert cross.items() <= inputs.items()
    assert inputs["input_ids"] == ("int64", ("rows", "sequence_length"))
    assert {name: inputs[name] for name in ("logits_to_keep", "top_k")} == {
        "logits_to_keep": ("int64", ()),
        "top_k": ("int64", ()),
    }
    outputs = {t.name: t.shape for t in graphs["decoder"].outputs}
    assert outputs["logits"] == ("rows", "kept_length", VOCABULARY)
    assert outputs["top_ids"] == outputs["top_logprobs"] == ("rows", "kept_length", "top_k")
    present = ("rows", cache.heads, "total_sequence_length", 8)
    assert outputs["present.1.value"] == present


def test_logits_are_those_of_the_formulas(tmp_path):
    bundle, answer = exported(tmp_path), [1, *drawn(1, 5)[0]]
    given = begun(bundle, sources=SOURCES[:1])(np.array([answer]), keep=6).logits[0]
    assert near(given, marian_by_hand(tmp_path / "source", SOURCES[0], answer))


def test_a_computed_head_bias_of_zeros_costs_no_node(tmp_path):
    bundle = exported(tmp_path, edit=lambda arrays: arrays["final_logits_bias"].fill(0))
    assert "/lm_head/Add" not in {node.name for node in graph_of(bundle).graph.node}


@pytest.mark.parametrize("family", WRITERS)
def test_rows_are_the_same_at_once_by_steps_and_of_different_lengths(tmp_path, family):
    bundle = exported(tmp_path, family)
    answers, beams = drawn(9, 7), 3
    wanted = begun(bundle, beams=beams)(answers, keep=7).logits
    steps = begun(bundle, beams=beams)
    for at in range(7):
        assert near(steps(answers[:, at : at + 1]).logits[:, 0], wanted[:, at])
    ragged, rows = begun(bundle, beams=beams), np.arange(9)
    given = ragged(answers[:, :3], added=rows % 3 + 1, keep=3)
    assert near(given.logits[rows, rows % 3], wanted[rows, rows % 3])
    for _ in range(4):
        at = ragged.lengths.copy()
        assert near(ragged(answers[rows, at][:, None]).logits[:, 0], wanted[rows, at])


@pytest.mark.parametrize("family", WRITERS)
def test_a_source_is_read_alike_alone_and_padded(tmp_path, family):
    bundle, answers = exported(tmp_path, family), drawn(3, 4)
    together = begun(bundle)(answers, keep=4).logits
    for row, source in enumerate(SOURCES):
        alone = begun(bundle, sources=[source])(answers[row : row + 1], keep=4).logits
        assert near(together[row : row + 1], alone)


def test_the_best_tokens_are_ranked_and_none_unasked(tmp_path):
    bundle, answers = exported(tmp_path), drawn(3, 4)
    given = begun(bundle)(answers, keep=2, top_k=6)
    scores = given.logits.astype(np.float64)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :6]
    assert (given.top_ids == order).all()
    np.testing.assert_allclose(given.top_logprobs, np.take_along_axis(scores, order, -1), atol=1e-5)
    assert begun(bundle)(answers).top_ids.shape == (3, 1, 0)
    assert begun(bundle)(answers, top_k=10**6).top_ids.shape == (3, 1, VOCABULARY)


def test_of_a_tie_the_lower_id_is_first(tmp_path):
    def level(arrays):
        arrays["model.shared.weight"][...] = 0
        arrays["final_logits_bias"][...] = 0

    assert begun(exported(tmp_path, edit=level))(drawn(3, 1), top_k=4).top_ids[0, 0].tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_no_logits_are_given_where_none_are_asked_for(tmp_path):
    given = begun(exported(tmp_path))(drawn(3, 4), keep=0, top_k=2)
    assert given.logits.shape == (3, 0, VOCABULARY)


# Weights -----------------------------------------------------------------------------------------


def test_what_both_graphs_read_is_written_once(tmp_path):
    bundle = exported(tmp_path)
    words = [
        {entry.key: entry.value for entry in tensor.external_data}
        for role in ("encoder", "decoder")
        for tensor in graph_of(bundle, role).graph.initializer
        if tensor.name == "model.shared.weight"
    ]
    assert words[0] == words[1]
    assert words[0]["location"] == "encoder_model.onnx_data"


def test_tables_that_differ_are_both_written(tmp_path):
    def add_tables(arrays):
        draw = np.random.default_rng(0)
        arrays.pop("model.shared.weight")
        for side, rows in (("encoder", VOCABULARY), ("decoder", 300)):
            table = draw.standard_normal((rows, 32)).astype(np.float32)
            arrays[f"model.{side}.embed_tokens.weight"] = table
        arrays["final_logits_bias"] = np.zeros((1, 300), np.float32)

    bundle = exported(tmp_path, edit=add_tables, **APART)
    assert bundle.manifest.generation.vocabulary == 300
    answers = np.random.default_rng(0).integers(3, 300, (3, 2))
    assert begun(bundle)(answers).logits.shape == (3, 1, 300)


def test_heads_that_the_kernel_does_not_take_are_filled_up(tmp_path):
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    bundle, answer = exported(tmp_path, **heads), [1, *drawn(1, 5)[0]]
    cache = bundle.manifest.generation.cache
    assert (cache.heads, cache.head_size) == (8, 8)
    given = begun(bundle, sources=SOURCES[:1])(np.array([answer]), keep=6).logits[0]
    assert near(given, marian_by_hand(tmp_path / "source", SOURCES[0], answer))


def test_products_are_found_by_the_names_of_their_modules(tmp_path):
    bundle = exported(tmp_path)
    names = {layer.name for layer in find_layers(graph_of(bundle))}
    assert {
        "model/decoder/layers.0/self_attn/qkv_proj",
        "model/decoder/layers.1/encoder_attn/q_proj",
        "model/decoder/layers.1/fc2",
    } <= {name.strip("/").removesuffix("/MatMul") for name in names}
    kept = {layer.name for layer in find_layers(graph_of(bundle, "encoder"))}
    assert any("decoder/layers.1/encoder_attn/kv_proj" in name for name in kept)
    assert not any("kv_proj" in name and "qkv" not in name for name in names)


@pytest.mark.parametrize("name", ["model.decoder.embed_tokens.weight", "lm_head.weight"])
def test_a_table_of_words_may_have_any_of_its_names(tmp_path, name):
    def rename(arrays):
        arrays[name] = arrays.pop("model.shared.weight")

    answers = drawn(3, 4)
    wanted = begun(exported(tmp_path / "a"))(answers).logits
    assert (begun(exported(tmp_path / "b", edit=rename))(answers).logits == wanted).all()
