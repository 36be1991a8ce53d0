"""A folder that holds ONNX already → a bundle with the same answers and all weights inside it."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Precision
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.errors import BundleError, LmonnxError, StageError, UnsupportedError
from lmonnx.measure.parity import measure_parity, read_golden

pytestmark = pytest.mark.compiler

GOLDEN = Path(__file__).parents[3] / "golden" / "tiny-bert.json"


@pytest.fixture
def folder(bert_checkpoint, tmp_path) -> Path:
    """Give a checkpoint's folder without its weights."""
    ignore = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(bert_checkpoint, tmp_path / "published", ignore=ignore))


@pytest.fixture
def graph(bert_bundle) -> onnx.ModelProto:
    """Give the exported graph, its weights inside it."""
    return onnx.load(bert_bundle / "onnx" / "model.onnx")


def adopt(folder: Path, **options) -> Bundle:
    return export(open_checkpoint(str(folder)), folder.parent / "bundle", **options)


def refused(folder: Path, error: type[LmonnxError], said: str, **options) -> None:
    with pytest.raises(error, match=said) as caught:
        adopt(folder, engine=Engine.ADOPT, **options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.parent.iterdir()] == ["published"]


def equals_golden(bundle: Bundle) -> None:
    parity = measure_parity(lmonnx.load(bundle.path, threads=1), read_golden(GOLDEN))
    assert parity.relative < 1e-5
    assert parity.agreement == 1


def save(model: onnx.ModelProto, path: Path, threshold: int | None = None) -> None:
    """Save with weights inside, or in `NAME_data` from `threshold` bytes on."""
    path.parent.mkdir(exist_ok=True)
    onnx.save(
        model,
        path,
        save_as_external_data=threshold is not None,
        location=f"{path.name}_data",
        size_threshold=threshold or 0,
    )


@pytest.mark.parametrize("threshold", [None, 0, 1024])
@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
def test_both_layouts_are_adopted_with_weights_inside_or_outside(folder, graph, place, threshold):
    save(graph, folder / place, threshold)
    bundle = adopt(folder)
    assert bundle.manifest.history[0].options["engine"] == "adopt"
    assert bundle.manifest.precision is Precision.FLOAT32
    equals_golden(bundle)
    shutil.rmtree(folder)
    equals_golden(Bundle.open(bundle.path))


@pytest.mark.parametrize("suffix", ["int8", "quantized", "uint8", "q8"])
def test_a_quantized_variant_is_told_by_its_operators(folder, graph, suffix):
    node = graph.graph.node[-1]
    ids = helper.make_node("Cast", ["attention_mask"], ["u8"], to=TensorProto.UINT8, name="u8")
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.int8), "zero8"))
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis1")
    graph.graph.initializer.append(axis)
    graph.graph.node.extend(
        [
            ids,
            helper.make_node("ReduceMax", ["attention_mask"], ["top"], axes=[1], keepdims=1),
            helper.make_node("Cast", ["top"], ["top8"], to=TensorProto.UINT8),
            helper.make_node("MatMulInteger", ["top8", "zero8"], ["nothing"]),
            helper.make_node("Cast", ["nothing"], ["nothing32"], to=TensorProto.FLOAT),
            helper.make_node("Add", [node.output[0], "nothing32"], ["moved"]),
        ]
    )
    graph.graph.node.remove(ids)
    graph.graph.output[0].name = "moved"
    # The logits keep their name.
    for made in graph.graph.node:
        made.output[:] = [
            "raw" if o == "logits" else "logits" if o == "moved" else o for o in made.output
        ]
        made.input[:] = ["raw" if i == "logits" else i for i in made.input]
    graph.graph.output[0].name = "logits"
    save(graph, folder / "onnx" / f"model_{suffix}.onnx")
    bundle = adopt(folder)
    assert bundle.manifest.precision is Precision.INT8
    equals_golden(bundle)


def test_the_float_graph_comes_first_and_a_variant_may_be_asked(folder, graph):
    save(graph, folder / "onnx" / "model.onnx")
    graph.graph.doc_string = "the other"
    save(graph, folder / "onnx" / "model_O3.onnx")
    default = onnx.load(adopt(folder).file("onnx/model.onnx"), load_external_data=False)
    assert default.graph.doc_string != "the other"
    asked = adopt(folder, engine=Engine.ADOPT, variant="O3", force=True)
    other = onnx.load(asked.file("onnx/model.onnx"), load_external_data=False)
    assert other.graph.doc_string == "the other"
    assert asked.manifest.history[0].options["variant"] == "O3"


def test_a_checkpoint_with_weights_is_built_natively_unless_asked(bert_checkpoint, graph, tmp_path):
    folder = Path(shutil.copytree(bert_checkpoint, tmp_path / "published"))
    save(graph, folder / "onnx" / "model.onnx")
    assert adopt(folder).manifest.history[0].options["engine"] == "native"
    bundle = adopt(folder, engine=Engine.ADOPT, force=True)
    assert bundle.manifest.history[0].options["engine"] == "adopt"


def test_the_hub_caches_links_are_followed(folder, graph, tmp_path):
    save(graph, folder / "onnx" / "model.onnx", 0)
    cache = tmp_path / "models--x"
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    for number, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, cache / "blobs" / str(number))
        link.symlink_to(cache / "blobs" / str(number))
    equals_golden(export(open_checkpoint(str(snapshot)), tmp_path / "bundle"))


def test_weights_that_the_graph_lists_as_inputs_too_are_weights(folder, graph):
    # Graphs of IR version 3 do so.
    for tensor in list(graph.graph.initializer):
        graph.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    save(graph, folder / "model.onnx")
    equals_golden(adopt(folder))


# What is refused -------------------------------------------------------------------------------


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "location", ["../published/model.onnx_data", "/etc/passwd", "..\\x", "a/../model.onnx_data", ""]
)
def test_weights_outside_the_folder_are_refused(folder, graph, location):
    save(graph, folder / "model.onnx", 0)
    relocate(folder / "model.onnx", location)
    refused(folder, StageError, "takes weights from .*, outside its folder")


def test_weights_through_a_link_out_of_the_folder_are_refused(folder, graph, tmp_path_factory):
    save(graph, folder / "model.onnx", 0)
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    shutil.move(folder / "model.onnx_data", secret)
    (folder / "model.onnx_data").symlink_to(secret)
    refused(folder, StageError, "a link out of its folder")


def test_missing_weights_are_named(folder, graph):
    save(graph, folder / "model.onnx", 0)
    (folder / "model.onnx_data").unlink()
    refused(folder, StageError, "needs model.onnx_data beside it, which is missing")


def test_weights_cut_short_are_refused(folder, graph):
    save(graph, folder / "model.onnx", 0)
    data = (folder / "model.onnx_data").read_bytes()
    (folder / "model.onnx_data").write_bytes(data[:1000])
    refused(folder, StageError, "is damaged")


@pytest.mark.parametrize("value", ["-64", "x", "9" * 30])
def test_weights_at_an_impossible_offset_are_refused(folder, graph, value):
    save(graph, folder / "model.onnx", 0)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "offset":
            entry.value = value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    refused(folder, StageError, "is damaged")


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x08"])
def test_a_file_that_is_no_graph_is_refused(folder, data):
    (folder / "model.onnx").write_bytes(data)
    refused(folder, LmonnxError, r"model\.onnx")


def test_a_truncated_graph_is_refused(folder, graph):
    (folder / "model.onnx").write_bytes(graph.SerializeToString()[:-100])
    refused(folder, StageError, "is not an ONNX graph")


def test_a_tensor_outside_in_a_nodes_attribute_leaves_no_bundle(folder, graph):
    hidden = TensorProto(name="h", data_type=TensorProto.FLOAT, dims=[1])
    hidden.data_location = TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="config.json")
    graph.graph.node.append(helper.make_node("Constant", [], ["h"], value=hidden))
    save(graph, folder / "model.onnx")
    refused(folder, BundleError, "takes weights from onnx/config.json, which has no hash")


def test_a_graph_with_functions_leaves_no_bundle(folder, graph):
    graph.functions.append(
        helper.make_function("local", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
                             [helper.make_opsetid("", 17)])
    )  # fmt: skip
    save(graph, folder / "model.onnx")
    refused(folder, BundleError, "not a whole ONNX graph")


def test_a_graph_of_another_kind_is_refused(folder, graph):
    graph.graph.output[0].name = "last_hidden_state"
    save(graph, folder / "model.onnx")
    refused(folder, UnsupportedError, "text-classification takes .* and gives logits")


def test_a_graph_of_a_newer_opset_is_refused(folder, graph):
    graph.opset_import[0].version = 21
    save(graph, folder / "model.onnx")
    refused(folder, UnsupportedError, "is of opset 21, a bundle's newest is 20")


def test_a_graph_of_32_bit_ids_is_refused(folder, graph):
    graph.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    save(graph, folder / "model.onnx")
    refused(folder, UnsupportedError, "ids that are not int64")


def test_a_graph_with_another_number_of_logits_is_refused(folder, graph):
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    save(graph, folder / "model.onnx")
    refused(folder, StageError, "gives 3 logits, config.json names 2")


@pytest.mark.parametrize("variant", ["int8", "../../x", None])
def test_a_variant_that_is_not_there_is_refused_with_what_is(folder, graph, variant):
    if variant:
        save(graph, folder / "onnx" / "model.onnx")
    refused(folder, UnsupportedError, "to adopt .found: (model.onnx|none)", variant=variant)


def test_a_variant_is_for_adoption_only(bert_checkpoint, tmp_path):
    with pytest.raises(UnsupportedError, match="pass --engine adopt"):
        export(open_checkpoint(str(bert_checkpoint)), tmp_path / "bundle", variant="int8")
    assert not (tmp_path / "bundle").exists()
