"""Decoders in integers: their graphs, what they share, their gate, what is refused."""

import numpy as np
import onnx
import pytest

from lmonnx import Bundle, GateError, InputError, StageError
from lmonnx.bundle.manifest import Precision
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import load_graph, read_weight
from lmonnx.compiler.quantize import quantize
from lmonnx.compiler.quantize.decoder_graph import write_decoder
from lmonnx.compiler.quantize.folding import Factors, find_folds
from lmonnx.compiler.quantize.forms import BY_ROWS, Form, Recipe
from lmonnx.compiler.quantize.layers import find_layers
from lmonnx.compiler.quantize.moments import observe_moments
from lmonnx.compiler.quantize.own_text import write_text
from lmonnx.compiler.quantize.recipes import Method, plans
from lmonnx.measure.perplexity import Predictor, read_windows, window_inputs
from lmonnx.progress import silent
from lmonnx.runtime.session import Session, SessionConfig
from tests.tiny_decoders import write_gpt2, write_llama

pytestmark = pytest.mark.compiler
TEXT = "the quick brown fox jumps over the lazy dog, and the dog does not mind. " * 12
WRITERS = {"llama": write_llama, "gpt2": write_gpt2}
LAYERS = 2


def exported(folder, family="llama", **changes):
    source = WRITERS[family](folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "float", verify=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("decoder"))


def made_of(bundle, target, **options):
    return quantize(bundle, target, text=TEXT, max_drop=1, **options)


def operators(bundle, role="model"):
    return bundle.manifest.graphs[role].operators


def logits(bundle, role="model"):
    return Predictor(bundle, role).logits(read_windows(bundle, TEXT)[0])


def closeness(one, other):
    return 1 - float(((one - other) ** 2).mean() / one.var())


def test_four_bits_hold_every_product_and_one_table_for_both_ends(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made", block_size=32)
    assert made.manifest.precision is Precision.INT4
    assert operators(made)["MatMulNBits"] == 4 * LAYERS + 1
    assert operators(made)["GatherBlockQuantized"] == 1 and "MatMul" not in operators(made)
    tensors = {t.name: t for t in load_graph(made.file("onnx/model.onnx")).graph.initializer}
    places = [
        {
            entry.key: entry.value
            for entry in tensors[f"model.embed_tokens.weight_{kind}"].external_data
        }
        for kind in ("blocks", "table")
    ]
    assert places[0] == places[1]
    assert closeness(logits(bundle), logits(made)) > 0.85


def test_every_product_multiplies_integers(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made")
    levels = {
        onnx.helper.get_attribute_value(a)
        for node in load_graph(made.file("onnx/model.onnx")).graph.node
        if node.op_type == "MatMulNBits"
        for a in node.attribute
        if a.name == "accuracy_level"
    }
    assert levels == {4}


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"method": "weight-only", "bits": 8}, 0.995),
        ({"method": "weight-only", "bits": 4, "calibrate": False}, 0.8),
        ({"method": "weight-only", "head_bits": 4, "block_size": 32}, 0.8),
        ({"method": "dynamic"}, 0.99),
    ],
)
def test_each_form_answers_nearly_as_the_float_bundle(bundle, tmp_path, options, least):
    made = made_of(bundle, tmp_path / "made", **options)
    assert closeness(logits(bundle), logits(made)) > least


@pytest.mark.parametrize(
    "changes", [{"tie_word_embeddings": False}, {"hidden_size": 48, "num_attention_heads": 2}]
)
def test_tables_of_their_own_and_of_odd_width_are_held_too(tmp_path, changes):
    bundle = exported(tmp_path, **changes)
    made = made_of(bundle, tmp_path / "made", method="dynamic")
    assert closeness(logits(bundle), logits(made)) > 0.99


def test_a_learned_position_table_and_biases_are_left_as_they_are(tmp_path):
    bundle = exported(tmp_path, "gpt2")
    made = made_of(bundle, tmp_path / "made", method="both", bits=8)
    assert closeness(logits(bundle), logits(made)) > 0.99
    assert closeness(logits(bundle), logits(made, "lone")) > 0.99


def test_both_holds_two_graphs_that_share_the_head(bundle, tmp_path):
    options = {"head_bits": 8, "block_size": 32}
    made = made_of(bundle, tmp_path / "both", method="both", **options)
    assert set(made.manifest.graphs) == {"model", "lone"}
    assert operators(made)["MatMulIntegerToFloat"] == 4 * LAYERS
    assert operators(made, "lone")["MatMulNBits"] == 4 * LAYERS + 1
    alone = made_of(bundle, tmp_path / "alone", **options)
    size = (made.path / "onnx/lone.onnx_data").stat().st_size
    assert size < (alone.path / "onnx/model.onnx_data").stat().st_size
    np.testing.assert_array_equal(logits(made, "lone"), logits(alone))
    assert Bundle.open(made.path)  # hashes, and every file that a graph points at


def test_products_behind_a_norm_have_one_scale_for_all_rows(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made", method="dynamic")
    assert operators(made)["ReduceMax"] == 2 * LAYERS + 1  # before o_proj, down_proj and the head
    assert operators(made)["QuantizeLinear"] == 4 * LAYERS + 1
    nearest = made_of(bundle, tmp_path / "nearest", method="dynamic", calibrate=False)
    assert operators(nearest)["ReduceMax"] == 4 * LAYERS + 1


def test_by_rows_no_row_depends_on_the_others(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made", method="dynamic")
    ids = read_windows(bundle, TEXT)[0]
    whole = logits(made)[:8]
    np.testing.assert_allclose(Predictor(made).logits(ids[:8]), whole, atol=1e-4)


@pytest.mark.parametrize("method", ["dynamic", "both"])
def test_a_chunk_of_a_prompt_wants_no_logits(bundle, tmp_path, method):
    made = made_of(bundle, tmp_path / "made", method=method, calibrate=False)
    inputs = window_inputs(read_windows(bundle, TEXT)[0], bundle.manifest.generation.cache)
    inputs |= {"logits_to_keep": np.array(0, np.int64)}
    for role, graph in made.manifest.graphs.items():
        given = Session(made.file(f"onnx/{role}.onnx"), graph, SessionConfig()).run(inputs)
        assert given["logits"].shape == (1, 0, bundle.manifest.generation.vocabulary)


def test_kept_layers_stay_in_float32(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made", keep=["down_proj"])
    assert operators(made)["MatMul"] == LAYERS
    whole = made_of(bundle, tmp_path / "head", keep=["lm_head"])
    assert "GatherBlockQuantized" not in operators(whole)


def test_without_the_last_bits_the_gate_writes_nothing(bundle, tmp_path):
    with pytest.raises(GateError, match="perplexity rises from"):
        quantize(bundle, tmp_path / "made", text=TEXT, max_drop=-0.5)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("role", ["model", "prompt"])
def test_the_gates_figures_are_those_of_an_independent_computation(bundle, tmp_path, role):
    made = made_of(bundle, tmp_path / "made")
    costs, kl, same = {"reference": [], "perplexity": []}, [], []
    predictors = Predictor(bundle), Predictor(made, role)
    for window in read_windows(bundle, TEXT):
        first, second = (np.float64(each.logits(window))[:-1] for each in predictors)
        p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (first, second))
        for row, token in enumerate(window[1:]):
            costs["reference"].append(-np.log(p[row, token]))
            costs["perplexity"].append(-np.log(q[row, token]))
            kl.append((p[row] * np.log(p[row] / q[row])).sum())
            same.append(p[row].argmax() == q[row].argmax())
    metrics = made.manifest.history[-1].metrics
    found, worst = metrics["graphs"][role], max(x["ratio"] for x in metrics["graphs"].values())
    for name, values in costs.items():
        assert found[name] == pytest.approx(np.exp(np.mean(values)), rel=1e-6)
    assert found["kl"] == pytest.approx(np.mean(kl), rel=1e-5)
    assert found["agreement"] == pytest.approx(np.mean(same))
    assert worst - 1 == metrics["drop"] and found["predictions"] == len(kl)
    low, high = metrics["interval"]
    assert low <= metrics["drop"] <= high


def test_moments_are_those_of_the_values(bundle):
    windows = read_windows(bundle, TEXT)
    model = load_graph(bundle.file("onnx/model.onnx"))
    value = find_layers(model)[3].value
    (found,) = observe_moments(bundle, {value: 96}, windows, silent)
    model.graph.output.append(onnx.helper.make_tensor_value_info(value, 1, None))
    rows = np.concatenate([watched(bundle, model, value, ids) for ids in windows])
    np.testing.assert_allclose(found[value].second, rows.T @ rows / len(rows), atol=1e-5)
    np.testing.assert_allclose(found[value].peak, np.abs(rows).max(axis=0))


def watched(bundle, model, value, ids):
    from lmonnx.compiler.graph import graph_spec

    path = bundle.path.parent / "watched.onnx"
    for tensor in model.graph.initializer:
        array = read_weight(tensor, bundle.path / "onnx")
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(array), tensor.name))
    onnx.save(model, path)
    session = Session(path, graph_spec(model, path.name), SessionConfig())
    return session.run(window_inputs(ids, bundle.manifest.generation.cache))[value][0]


def test_factors_fold_away_without_a_trace(bundle, tmp_path):
    source = bundle.file("onnx/model.onnx")
    model = load_graph(source)
    layers, folds = find_layers(model), find_folds(load_graph(source), find_layers(model))
    assert len(folds) == 3 * LAYERS + 1  # two norms and act(gate) · up a layer, and the last norm
    factors, random = Factors(), np.random.default_rng(0)
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value, fold in folds.items():
        readers = [layer for layer in layers if layer.value == value]
        if not readers[0].rows:
            drawn = random.uniform(0.2, 5, shapes[readers[0].weight][0]).astype(np.float32)
            factors.add(value, fold, readers, drawn)
    spec = write_decoder(source, tmp_path / "model.onnx", "m", Recipe({}, factors=factors))
    session = Session(tmp_path / "model.onnx", spec, SessionConfig())
    ids = read_windows(bundle, TEXT)[0]
    given = session.run(window_inputs(ids, bundle.manifest.generation.cache))["logits"][0]
    np.testing.assert_allclose(given, logits(bundle), atol=1e-4)


def test_a_decoder_writes_text_that_it_finds_likely(bundle):
    rows = write_text(bundle, rows=3, length=40, progress=silent)
    again = write_text(bundle, rows=3, length=40, progress=silent)
    assert len(rows) == 3 and all(len(row) == 40 for row in rows)
    np.testing.assert_array_equal(rows, again)
    vocabulary = bundle.manifest.generation.vocabulary
    own = np.mean([entropy_gap(bundle, row) for row in rows])
    drawn = np.random.default_rng(1).integers(vocabulary, size=(3, 40))
    assert own < 0.25 < np.mean([entropy_gap(bundle, row) for row in drawn])


def entropy_gap(bundle, ids):
    """Return how much more the tokens surprise than tokens drawn from the model would."""
    rows = Predictor(bundle).logits(ids)[:-1].astype(np.float64)
    logp = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
    surprise = -np.take_along_axis(logp, ids[1:, None], 1).mean()
    return surprise + (np.exp(logp) * logp).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bits": 3}, InputError, "bits is 3, must be one of 4, 8"),
        ({"head_bits": 2}, InputError, "head_bits is 2, must be one of 4, 8"),
        ({"block_size": 16}, InputError, "block_size is 16, must be one of 32, 64, 128"),
        ({"keep": ["nothing"]}, InputError, "no layer matches"),
        ({"text": "a"}, InputError, "too short"),
    ],
)
def test_wrong_options_are_refused(bundle, tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        quantize(bundle, tmp_path / "made", **options)


def test_a_quantized_decoder_is_not_quantized_again(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made")
    with pytest.raises(StageError, match="int4 already"):
        quantize(made, tmp_path / "again")


def test_encoders_have_no_blocks(bert_bundle, tmp_path):
    with pytest.raises(InputError, match="weight-only is for decoders"):
        quantize(Bundle.open(bert_bundle), tmp_path / "made", method="weight-only")


def test_with_a_head_of_eight_bits_both_graphs_share_it():
    first, second = plans(Method.BOTH, 4, 64, head_bits=8)
    assert first.head == second.head == Form(8, 64)
    first, second = plans(Method.BOTH, 4, 64)
    assert (first.head, second.head) == (BY_ROWS, Form(4, 32))


def test_blocks_are_the_largest_that_leave_no_remainder(bundle, tmp_path):
    made = quantize(bundle, tmp_path / "a", block_size=128, calibrate=False, max_drop=0.99)
    graph = load_graph(made.file("onnx/model.onnx")).graph
    for node in (n for n in graph.node if n.op_type == "MatMulNBits"):
        held = {a.name: a.i for a in node.attribute}
        size, width = held["block_size"], held["K"]
        assert width % size == 0 or size == 128
        assert size == 128 or width % (2 * size) or "head" in node.name
