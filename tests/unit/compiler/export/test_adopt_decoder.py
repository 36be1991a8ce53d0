"""Decoders' graphs that others made become graphs of our contract, or are refused."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import CacheSpec
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.compiler.quantize.layers import find_layers, is_lookup
from lmonnx.errors import LmonnxError, ParityError, StageError, UnsupportedError
from lmonnx.runtime.generate.params import SamplingParams
from tests.cached import UNSET, CachedGraph
from tests.published_decoder import (
    CONTEXT,
    HEAD,
    HEADS,
    VOCABULARY,
    fused_nodes,
    make_merged,
    make_model,
    plain_nodes,
    write_folder,
)

pytestmark = pytest.mark.compiler

LENGTH, SLOTS = 20, 3
MODELS = {
    "plain": lambda: (make_model(plain_nodes()), "onnx/model.onnx"),
    "fused": lambda: (make_model(fused_nodes()), "model.onnx"),
    "merged": lambda: (make_merged(), "onnx/decoder_model_merged.onnx"),
}


def adopt(folder: Path, **options) -> Bundle:
    return export(open_checkpoint(str(folder)), folder / "bundle", verify=False, **options)


@pytest.fixture(scope="module", params=MODELS)
def bundle(request, tmp_path_factory) -> Bundle:
    """Give the bundle of a published graph."""
    return adopt(write_folder(tmp_path_factory.mktemp("published"), *MODELS[request.param]()))


@pytest.fixture(scope="module")
def texts() -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCABULARY, (SLOTS, LENGTH))


@pytest.fixture(scope="module")
def wanted(texts) -> np.ndarray:
    """Give what the published graph says of whole texts, with no past: (B, S, V)."""
    session = ort.InferenceSession(make_model(plain_nodes()).SerializeToString())
    empty = np.zeros((SLOTS, HEADS, 0, HEAD), np.float32)
    places = np.broadcast_to(np.arange(LENGTH), texts.shape)
    inputs = {"input_ids": texts, "attention_mask": np.ones_like(texts), "position_ids": places}
    past = {f"past_key_values.0.{part}": empty for part in ("key", "value")}
    return session.run(["logits"], {**inputs, **past})[0]


def near(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_it_has_the_contracts_inputs_and_says_so(bundle):
    manifest = bundle.manifest
    assert manifest.history[0].options["engine"] == Engine.ADOPT.value
    assert manifest.generation.cache == CacheSpec(1, HEADS, HEAD)
    assert (manifest.generation.context, manifest.generation.vocabulary) == (CONTEXT, VOCABULARY)
    inputs = {tensor.name: tensor.shape for tensor in manifest.graphs["model"].inputs}
    assert inputs["past_key_values.0.key"] == (
        "batch_size", HEADS, "past_sequence_length", HEAD,
    )  # fmt: skip
    assert manifest.graphs["model"].outputs[0].shape[-1] == VOCABULARY


def test_chunks_then_ragged_steps_give_the_graphs_own_logits(bundle, texts, wanted):
    graph = CachedGraph(bundle, slots=SLOTS)
    for slot, ends in enumerate([(3,), (4, 9), (1, 2, 15)]):
        for start, end in zip((0, *ends), ends, strict=False):
            found = graph([texts[slot, start:end]], slot=slot, keep=end - start)[0]
            near(found, wanted[slot, start:end])
    while graph.lengths.max() < LENGTH:
        at = np.arange(SLOTS), graph.lengths.copy()
        near(graph(texts[at][:, None])[:, 0], wanted[at])


def test_only_a_rows_own_new_places_are_written_and_in_place(bundle, texts):
    graph = CachedGraph(bundle, slots=SLOTS)
    for slot, length in enumerate((2, 7, 4)):
        graph([texts[slot, :length]], slot=slot)
    held = {name: array.copy() for name, array in graph.caches.items()}
    graph(texts[:, :1])
    for name, array in graph.caches.items():
        changed = (array != held[name]).any(axis=(1, 3))  # (B, T)
        assert [np.flatnonzero(row).tolist() for row in changed] == [[2], [7], [4]]
        assert (array[0, :, 3:] == UNSET).all()


@pytest.mark.parametrize(("keep", "given"), [(0, 0), (1, 1), (3, 3), (50, 6)])
def test_the_last_logits_that_are_asked_for_are_given(bundle, texts, wanted, keep, given):
    found = CachedGraph(bundle)([texts[0, :6]], keep=keep)
    assert found.shape == (1, given, VOCABULARY)
    near(found[0], wanted[0, 6 - given : 6])


def test_unwanted_logits_are_not_computed(bundle):
    model = onnx.load(bundle.file("onnx/model.onnx"), load_external_data=False)
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers["logits"]
    while node.op_type != "FusedMatMul":
        node = makers[node.input[0]]
    assert makers[node.input[0]].op_type == "Slice"


def test_a_head_that_is_the_table_is_stored_once(bundle):
    model = onnx.load(bundle.file("onnx/model.onnx"), load_external_data=False)
    sizes = [sorted(t.dims) for t in model.graph.initializer]
    assert sizes.count(sorted((VOCABULARY, HEADS * HEAD))) == 1


def test_equal_weights_are_stored_once(tmp_path):
    model = make_model(plain_nodes())
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored["wk"].raw_data = stored["wq"].raw_data
    made = adopt(write_folder(tmp_path, model))
    graph = onnx.load(made.file("onnx/model.onnx"), load_external_data=False).graph
    assert [list(t.dims) for t in graph.initializer].count([HEADS * HEAD] * 2) == 3


def test_completions_in_company_are_those_of_each_alone(bundle):
    prompts, params = ["a", "film is", "the good thing"], SamplingParams(max_new_tokens=12)
    with lmonnx.load(bundle.path, threads=1) as model:
        alone = [model([prompt], params)[0].token_ids for prompt in prompts]
        assert [completion.token_ids for completion in model(prompts, params)] == alone


def test_the_fused_attention_reads_and_writes_the_cache_itself(tmp_path):
    operators = (
        adopt(write_folder(tmp_path, MODELS["fused"]()[0])).manifest.graphs["model"].operators
    )
    assert operators["GroupQueryAttention"] == 1
    assert "ScatterND" not in operators


def refused(folder: Path, model: onnx.ModelProto, error: type[LmonnxError], said: str) -> None:
    write_folder(folder, model)
    with pytest.raises(error, match=said):
        adopt(folder)
    assert not (folder / "bundle").exists()


def changed(name: str, value: onnx.ValueInfoProto) -> onnx.ModelProto:
    """Return the plain graph with another form of one input."""
    model = make_model(plain_nodes())
    next(v for v in model.graph.input if v.name == name).CopyFrom(value)
    return model


KEY = "past_key_values.0.key"


@pytest.mark.parametrize(
    ("elem", "shape", "said"),
    [
        (
            TensorProto.FLOAT16,
            ["b", HEADS, "p", HEAD],
            r"key is FLOAT16 \(b, 2, p, 16\), not FLOAT",
        ),
        (TensorProto.FLOAT, ["b * h", HEAD, "p"], r"key is FLOAT \(b \* h, 16, p\), not"),
        (TensorProto.FLOAT, ["b", HEADS, HEAD, "p"], r"\(b, 2, 16, p\), not FLOAT \(B, K, P, D\)"),
        (TensorProto.FLOAT, ["b", 1, "p", HEAD], "layers with pasts of several shapes"),
    ],
)
def test_a_past_of_another_layout_is_refused(tmp_path, elem, shape, said):
    model = changed(KEY, helper.make_tensor_value_info(KEY, elem, shape))
    refused(tmp_path, model, UnsupportedError, said)


def test_an_input_that_is_not_known_is_refused(tmp_path):
    model = make_model(plain_nodes())
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["b"]))
    refused(tmp_path, model, UnsupportedError, "takes pixels; a decoder takes input_ids, att")


def test_a_graph_without_a_past_is_refused(tmp_path):
    model = make_model(plain_nodes())
    kept = [value for value in model.graph.output if value.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    refused(tmp_path, model, UnsupportedError, "does not give present.0.key")


def test_a_graph_that_counts_places_by_itself_is_refused(tmp_path):
    nodes = [
        ("Unsqueeze", ["own", "zero_axis"], ["counted"], {}),
        *((op, ["counted" if n == "position_ids" else n for n in i], o, a)
          for op, i, o, a in plain_nodes()),
    ]  # fmt: skip
    mask = next(i for i, node in enumerate(nodes) if node[1] == ["attention_mask"])
    own = next(i for i, node in enumerate(nodes) if node[2] == ["own"])
    first = [n for n in nodes[mask : own + 1] if n[0] != "Transpose"]
    nodes = [*first, *(n for n in nodes if n not in first)]
    model = make_model(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero_axis"))
    refused(tmp_path, model, ParityError, "in steps and batches the graph's logits are")


def test_a_branch_that_no_if_chooses_is_refused(tmp_path):
    model = make_merged()
    model.graph.node[0].input[0] = "other"
    model.graph.node.insert(0, helper.make_node("Not", ["use_cache_branch"], ["other"]))
    refused(tmp_path, model, UnsupportedError, "not one If; export")


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    write_folder(tmp_path, make_model(plain_nodes()))
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(StageError, match="is not an ONNX graph"):
        adopt(tmp_path)


def by_two_axes() -> onnx.ModelProto:
    """Return the plain graph with OPT's habits: a view of the ids, Gemm by a turned matrix."""
    nodes = []
    for op, inputs, outputs, more in plain_nodes():
        if outputs == ["out"]:
            nodes += [
                ("Reshape", ["context", "rows_of"], ["context_rows"], {}),
                ("Gemm", ["context_rows", "wo_rows", "bias"], ["out_rows"], {"transB": 1}),
                ("Relu", ["out_rows"], ["out_positive"], {}),
                ("Shape", ["context"], ["shape_of"], {}),
                ("Reshape", ["out_positive", "shape_of"], ["out"], {}),
            ]
        else:
            ids = ["ids" if name == "input_ids" and op == "Gather" else name for name in inputs]
            nodes.append((op, ids, outputs, more))
    view = [
        ("Shape", ["input_ids"], ["width"], {"start": 1, "end": 2}),
        ("Concat", ["any", "width"], ["two_axes"], {"axis": 0}),
        ("Reshape", ["input_ids", "two_axes"], ["ids"], {}),
    ]
    model = make_model([*view, *nodes])
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    matrix = numpy_helper.to_array(stored["wo"])
    for name, array in {
        "wo_rows": np.ascontiguousarray(matrix.T),
        "bias": np.linspace(-1, 1, len(matrix), dtype=np.float32),
        "rows_of": np.array([-1, len(matrix)]),
        "any": np.array([-1]),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_lookups_and_products_are_such_as_quantize_finds(tmp_path, texts):
    model = by_two_axes()
    made = adopt(write_folder(tmp_path, model))
    graph = onnx.load(made.file("onnx/model.onnx"), load_external_data=False)
    assert [node.input[1] for node in graph.graph.node if is_lookup(node)] == ["input_ids"]
    assert len(find_layers(graph)) == 5
    empty = np.zeros((1, HEADS, 0, HEAD), np.float32)
    session = ort.InferenceSession(model.SerializeToString())
    inputs = {
        "input_ids": texts[:1],
        "attention_mask": np.ones((1, LENGTH), np.int64),
        "position_ids": np.arange(LENGTH)[None],
        **{f"past_key_values.0.{part}": empty for part in ("key", "value")},
    }
    near(CachedGraph(made)(texts[:1], keep=LENGTH), session.run(["logits"], inputs)[0])


def test_a_mask_beside_the_fused_attention_is_refused(tmp_path):
    nodes = fused_nodes()
    nodes[-1:] = [
        ("Cast", ["counted"], ["counted_float"], {"to": TensorProto.FLOAT}),
        ("Mul", ["scores_of_words", "factor"], ["logits_by_one"], {}),
        ("Unsqueeze", ["counted_float", "last"], ["counted_columns"], {}),
        ("Mul", ["logits_by_one", "counted_columns"], ["logits"], {}),
    ]
    said = "GroupQueryAttention takes the past as it is, and attention_mask is read besides"
    refused(tmp_path, make_model(nodes), UnsupportedError, said)
