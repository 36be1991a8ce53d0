"""Encoder-decoders in integers: their graphs, what they share, company, the gate, refusals."""

import numpy as np
import pytest

from lmonnx import GateError, InputError, StageError
from lmonnx.bundle.manifest import Precision
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.quantize import quantize
from lmonnx.compiler.quantize.pairs import Pair, PairModel, greedy
from lmonnx.compiler.quantize.rounding import Scale
from lmonnx.compiler.quantize.sources import calibration_sources, read_sources
from lmonnx.measure.references import Rewriting
from lmonnx.progress import silent
from tests.tiny_seq2seq import write_marian, write_t5

pytestmark = pytest.mark.compiler
TEXT = "the quick brown fox\njumps over\n\nthe lazy dog, and the dog\ndoes not mind\n"
WRITERS = {"marian": write_marian, "t5": write_t5}
LAYERS = 2


def exported(folder, family="marian", **changes):
    source = WRITERS[family](folder / "source", **changes)
    return export(open_checkpoint(str(source)), folder / "float", verify=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def by_rows(bundle, tmp_path_factory):
    return made_of(bundle, tmp_path_factory.mktemp("rows") / "made")


def made_of(bundle, target, **options):
    return quantize(bundle, target, text=TEXT, max_drop=1, **options)


def operators(bundle, role="decoder"):
    return bundle.manifest.graphs[role].operators


def tensors(bundle, role):
    graph = load_graph(bundle.file(bundle.manifest.graphs[role].file)).graph
    return {t.name: {e.key: e.value for e in t.external_data} for t in graph.initializer}


def size(bundle):
    return sum(path.stat().st_size for path in bundle.path.rglob("*.onnx_data"))


def logits(bundle, pairs):
    model = PairModel(bundle)
    return np.concatenate([model.logits(pair) for pair in pairs])


def pairs_of(bundle, length=9):
    random = np.random.default_rng(3)
    generation = bundle.manifest.generation
    start = generation.seq2seq.start_id
    return [
        Pair(ids, np.array([start, *random.integers(3, generation.vocabulary, length)]))
        for ids in read_sources(bundle, TEXT.split("\n\n"))
    ]


def closeness(bundle, made):
    one, other = (logits(each, pairs_of(bundle)) for each in (bundle, made))
    return 1 - float(((one - other) ** 2).mean() / one.var())


def test_every_product_of_both_graphs_is_of_integers(bundle, by_rows):
    assert by_rows.manifest.precision is Precision.INT8
    for role, wanted in (("encoder", 4 * LAYERS + LAYERS), ("decoder", 6 * LAYERS)):
        assert operators(by_rows, role)["MatMulIntegerToFloat"] == wanted
        assert not {"MatMul", "FusedMatMul"} & set(operators(by_rows, role))
    assert operators(by_rows)["QGemm"] == 1
    assert closeness(bundle, by_rows) > 0.99


def test_a_norm_of_uneven_gains_before_a_tied_head_changes_no_logits(tmp_path):
    def uneven(arrays):
        gains = arrays["model.decoder.layers.1.final_layer_norm.weight"]
        gains *= np.exp(np.random.default_rng(1).standard_normal(gains.shape)).astype(np.float32)

    bundle = exported(tmp_path, edit=uneven)
    made = made_of(bundle, tmp_path / "made")
    assert closeness(bundle, made) > 0.99
    for role in ("encoder", "decoder"):  # lookups take back what the head needs
        assert any(name.endswith("_channels") for name in tensors(made, role))
    assert table_place(made, "encoder") == table_place(made, "decoder")


def table_place(bundle, role):
    return next(p for name, p in tensors(bundle, role).items() if name.endswith("_table_int8"))


def test_one_table_of_integers_serves_both_lookups_and_the_head(by_rows):
    assert table_place(by_rows, "encoder") == table_place(by_rows, "decoder")


def test_a_product_takes_two_nodes_where_its_input_is_even(by_rows):
    found = operators(by_rows)
    assert "ReduceMax" not in found
    assert found["QuantizeLinear"] == 6 * LAYERS + 1


def test_rows_are_scaled_one_by_one_without_calibration(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made", calibrate=False)
    assert operators(made)["ReduceMax"] == 6 * LAYERS + 1
    assert closeness(bundle, made) > 0.95


@pytest.mark.parametrize("calibrate", [True, False])
def test_a_source_has_its_answer_in_any_company(bundle, tmp_path, calibrate):
    made = made_of(bundle, tmp_path / "made", calibrate=calibrate)
    sources = read_sources(bundle, [*TEXT.splitlines()[:2], "dog"])
    model, seen = PairModel(made), {}

    def watched(key):
        def choose(rows):
            seen.setdefault(key, []).append(rows.copy())
            return greedy(rows)

        return choose

    together = model.write(sources, watched("all"), more=4, progress=silent)
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    for row, index in enumerate(order):
        alone = model.write([sources[index]], watched(index), more=4, progress=silent)[0]
        np.testing.assert_array_equal(alone.target, together[index].target)
        for one, several in zip(seen[index], seen["all"], strict=False):
            np.testing.assert_allclose(several[row], one[0], atol=1e-5)


@pytest.mark.parametrize(("bits", "least"), [(4, 0.85), (8, 0.99)])
def test_bits_ask_for_blocks_in_the_decoder(bundle, tmp_path, bits, least):
    made = made_of(bundle, tmp_path / "made", bits=bits)
    assert operators(made)["MatMulNBits"] == 6 * LAYERS + 1
    assert operators(made, "encoder")["MatMulIntegerToFloat"] == 5 * LAYERS
    assert closeness(bundle, made) > least
    places = [
        next(place for name, place in tensors(made, role).items() if name.endswith("_table"))
        for role in ("encoder", "decoder")
    ]
    assert places[0] == places[1]


def own_head(arrays):
    """Draw a head, and make queries small enough for no near-tie: T5 does not scale scores."""
    table = arrays["shared.weight"]
    drawn = np.random.default_rng(1).standard_normal(table.shape) / table.shape[1] ** 0.5
    arrays["lm_head.weight"] = drawn.astype(np.float32)
    for name, array in arrays.items():
        if name.endswith(".q.weight"):
            array *= 0.1


def test_t5_with_a_tied_head(tmp_path):
    bundle = exported(tmp_path, "t5")
    made = made_of(bundle, tmp_path / "made")
    assert "MatMul" not in operators(made) and operators(made)["QGemm"] == 1
    assert closeness(bundle, made) > 0.9
    assert size(made) < 0.5 * size(bundle)


def test_t5_with_a_head_of_its_own(tmp_path):
    bundle = exported(tmp_path, "t5", tie_word_embeddings=False, edit=own_head)
    made = made_of(bundle, tmp_path / "made")
    assert "FusedMatMul" not in operators(bundle) and "QGemm" not in operators(made)
    assert operators(made)["MatMulIntegerToFloat"] == operators(bundle)["MatMul"]
    assert "MatMul" not in operators(made)
    assert closeness(bundle, made) > 0.99
    assert size(made) < 0.5 * size(bundle)


def test_kept_layers_stay_in_float32(bundle, tmp_path):
    made = made_of(bundle, tmp_path / "made", keep=["fc2"])
    for role in ("encoder", "decoder"):
        assert operators(made, role)["MatMul"] == LAYERS
    whole = made_of(bundle, tmp_path / "head", keep=["lm_head"])
    assert operators(whole)["FusedMatMul"] == 1


def test_the_step_tells_what_was_measured(by_rows):
    step = by_rows.manifest.history[-1]
    assert step.options["method"] == "dynamic"
    figures = step.metrics["graphs"]["decoder"]
    assert step.metrics["drop"] == pytest.approx(figures["ratio"] - 1)
    assert 0 <= figures["agreement"] <= 1 and figures["kl"] >= 0


def test_rounding_tells_how_far_it_is_in_both_graphs(bundle, tmp_path):
    told = []
    made_of(bundle, tmp_path / "made", progress=lambda *step: told.append(step))
    rounded = [(done, total) for what, done, total in told if what == "rounding"]
    totals = [total for done, total in rounded if not done]
    assert len(totals) == 2
    assert rounded == [(done, total) for total in totals for done in range(total + 1)]


def test_over_the_limit_nothing_is_written(bundle, tmp_path):
    with pytest.raises(GateError, match="own answers"):
        quantize(bundle, tmp_path / "made", text=TEXT, bits=4, calibrate=False, max_drop=-0.9)
    assert not (tmp_path / "made").exists()


def test_labelled_pairs_are_judged_by_the_task(bundle, tmp_path):
    pytest.importorskip("sacrebleu")
    examples = [Rewriting(line, (line,)) for line in TEXT.splitlines() if line]
    made = quantize(bundle, tmp_path / "made", examples=examples, max_drop=1)
    metrics = made.manifest.history[-1].metrics
    assert metrics["texts"] == len(examples)
    assert "decoder" in metrics["graphs"]
    with pytest.raises(GateError, match="drops by"):
        quantize(bundle, tmp_path / "none", examples=examples, max_drop=-1)


def test_what_cannot_be_had_is_said(bundle, by_rows, tmp_path):
    with pytest.raises(InputError, match="both is for decoders"):
        quantize(bundle, tmp_path / "made", method="both")
    with pytest.raises(InputError, match="no lines"):
        quantize(bundle, tmp_path / "made", text="\n \n")
    with pytest.raises(StageError, match="int8 already"):
        quantize(by_rows, tmp_path / "made")


def test_optimize_counts_the_attentions_and_takes_the_graphs_over(bundle, by_rows, tmp_path):
    made = optimize(bundle, tmp_path / "made")
    fused = made.manifest.history[-1].metrics["fused"]
    assert fused["GroupQueryAttention"] == LAYERS
    assert fused["MultiHeadAttention"] == 2 * LAYERS
    for role, graph in bundle.manifest.graphs.items():
        assert made.file(graph.file).read_bytes() == bundle.file(graph.file).read_bytes(), role
    with pytest.raises(StageError, match="already"):
        optimize(by_rows, tmp_path / "other")


def test_calibration_sources_are_sentences_and_tokens_that_the_encoder_knows(bundle):
    found = calibration_sources(bundle, 6, 40)
    assert len(found) == 12
    most = bundle.manifest.text.max_length
    assert all(0 < len(ids) <= most for ids in found)
    end = found[0][-1]
    assert all(ids[-1] == end and (ids[:-1] < 40).all() for ids in found[6:])


@pytest.mark.parametrize(
    ("least", "most", "zero"), [(-1, 1, 128), (0, 2, 0), (-0.25, 2.3, 25), (1, 2, 0), (0, 0, 0)]
)
def test_a_scale_reaches_over_all_of_a_range(least, most, zero):
    scale = Scale.over(least, most)
    assert scale.zero == zero
    assert (0 - scale.zero) * scale.step <= max(min(least, 0), 0) + 1e-6
    assert (255 - scale.zero) * scale.step >= most - scale.step


def test_the_bias_of_a_tied_head_is_inside_its_product(tmp_path):
    def biased(arrays):
        bias = arrays["final_logits_bias"]
        bias[:] = np.random.default_rng(5).standard_normal(bias.shape).astype(np.float32)

    bundle = exported(tmp_path, edit=biased)
    made = made_of(bundle, tmp_path / "made")
    assert closeness(bundle, made) > 0.99
    graph = load_graph(made.file(made.manifest.graphs["decoder"].file)).graph
    head = next(node for node in graph.node if node.op_type == "QGemm")
    assert len(head.input) == 7 and list(head.output) == ["logits"]
    logits, best, _ = made.manifest.graphs["decoder"].outputs[:3]
    assert len(logits.shape) == len(best.shape) == 2  # no copy gives them another shape


def test_a_bias_that_steps_cannot_tell_stays_outside(tmp_path):
    def banned(arrays):
        arrays["final_logits_bias"][..., 5] = -1e9

    bundle = exported(tmp_path, edit=banned)
    made = made_of(bundle, tmp_path / "made")
    graph = load_graph(made.file(made.manifest.graphs["decoder"].file)).graph
    assert "logits" in next(n for n in graph.node if n.name.endswith("lm_head/Add")).output
    one, other = (logits(each, pairs_of(bundle)) for each in (bundle, made))
    assert (one[:, 5] < -9e8).all() and (other[:, 5] < -9e8).all()
