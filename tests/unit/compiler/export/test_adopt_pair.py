"""Encoder-decoders' graphs that others made become the two of decision 13, or are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import CacheSpec, Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.errors import LmonnxError, ParityError, StageError, UnsupportedError
from lmonnx.runtime.generate.params import SamplingParams
from tests.paired import Answers, Sources
from tests.published_pair import (
    CONTEXT,
    HEADS,
    VOCABULARY,
    WIDTH,
    make_merged,
    make_pair,
    write_folder,
)

pytestmark = pytest.mark.compiler

SOURCES, BEAMS, LENGTH, PAD = (9, 2, 5), 2, 7, 1
MODELS = {
    "apart": make_pair,
    "flat": lambda: make_pair(flat=True),
    "merged": make_merged,
}
Models = dict[str, onnx.ModelProto]


def adopt(folder: Path, **options) -> Bundle:
    checkpoint = open_checkpoint(str(folder))
    return export(checkpoint, folder / "bundle", task=Task.TEXT_TO_TEXT, verify=False, **options)


@pytest.fixture(scope="module", params=MODELS)
def form(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def bundle(form, tmp_path_factory) -> Bundle:
    """Give the bundle of published graphs."""
    return adopt(write_folder(tmp_path_factory.mktemp("published"), MODELS[form]()))


@pytest.fixture(scope="module")
def sources() -> list[np.ndarray]:
    dice = np.random.default_rng(1)
    return [dice.integers(3, VOCABULARY, length) for length in SOURCES]


@pytest.fixture(scope="module")
def answers() -> np.ndarray:
    return np.random.default_rng(2).integers(3, VOCABULARY, (len(SOURCES) * BEAMS, LENGTH))


@pytest.fixture(scope="module")
def wanted(form, sources, answers) -> np.ndarray:
    """Give what the published first step says last of every prefix, each alone: (rows, T, V)."""
    models = make_pair(flat=form == "flat")
    encoder, decoder = (
        ort.InferenceSession(models[stem].SerializeToString())
        for stem in ("encoder_model", "decoder_model")
    )
    found = np.empty((*answers.shape, VOCABULARY), np.float32)
    for row, answer in enumerate(answers):
        ids = sources[row // BEAMS][None]
        mask = np.ones_like(ids)
        states = encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        given = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        for at in range(LENGTH):
            prefix = {"input_ids": answer[None, : at + 1]}
            found[row, at] = decoder.run(["logits"], {**given, **prefix})[0][0, -1]
    return found


def begin(bundle: Bundle, sources) -> Answers:
    graphs = bundle.manifest.graphs
    read = Sources(bundle.file(graphs["encoder"].file), sources, pad=PAD)
    cache, decoder = bundle.manifest.generation.cache, bundle.file(graphs["decoder"].file)
    return Answers(decoder, cache, read, beams=BEAMS)


def test_it_says_what_it_is(bundle):
    manifest = bundle.manifest
    assert manifest.history[0].options["engine"] == Engine.ADOPT.value
    # Heads of 6 are none that the kernel takes.
    assert manifest.generation.cache == CacheSpec(1, HEADS, 8)
    assert (manifest.generation.context, manifest.generation.vocabulary) == (CONTEXT, VOCABULARY)
    assert manifest.text.max_length == CONTEXT
    assert manifest.generation.seq2seq.start_id == 2
    operators = manifest.graphs["decoder"].operators
    assert operators["GroupQueryAttention"] == operators["MultiHeadAttention"] == 1
    assert "Softmax" not in operators


def test_whole_answers_give_the_graphs_own_logits(bundle, sources, answers, wanted):
    given = begin(bundle, sources)(answers, keep=LENGTH, top_k=3)
    near(given.logits, wanted)
    assert begin(bundle, sources)(answers, keep=2).logits.shape == (
        *answers.shape[:1],
        2,
        VOCABULARY,
    )


def test_ragged_steps_of_beams_give_the_graphs_own_logits(bundle, sources, answers, wanted):
    rows, steps = np.arange(len(answers)), begin(bundle, sources)
    given = steps(answers[:, :3], added=rows % 3 + 1, keep=3)
    near(given.logits[rows, rows % 3], wanted[rows, rows % 3])
    while steps.lengths.max() < LENGTH:
        at = rows, steps.lengths.copy()
        given = steps(answers[at][:, None], top_k=4)
        near(given.logits[:, 0], wanted[at])
        best = np.argsort(-given.logits[:, 0], axis=1, kind="stable")[:, :4]
        assert (given.top_ids[:, 0] == best).all()


def near(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_answers_in_company_are_those_of_each_alone(bundle):
    texts = ["a", "film is", "the good thing"]
    for beams in (1, 3):
        params = SamplingParams(max_new_tokens=12, num_beams=beams)
        with lmonnx.load(bundle.path, threads=1) as model:
            alone = [model([text], params)[0].token_ids for text in texts]
            assert [answer.token_ids for answer in model(texts, params)] == alone


def test_tables_of_both_graphs_are_stored_once(bundle):
    sizes = []
    for spec in bundle.manifest.graphs.values():
        graph = onnx.load(bundle.file(spec.file), load_external_data=False).graph
        for tensor in graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if sorted(tensor.dims) == sorted((VOCABULARY, WIDTH)):
                sizes.append((place["location"], place["offset"]))
    assert len(sizes) == 2 and len(set(sizes)) == 1


def test_a_variant_is_taken_by_its_suffix(tmp_path):
    write_folder(tmp_path, make_pair(), "_int8")
    assert adopt(tmp_path, engine=Engine.ADOPT, variant="int8").manifest.history[0].options == {
        "engine": "adopt", "task": "text2text-generation", "variant": "int8"
    }  # fmt: skip


def test_missing_files_are_named(tmp_path):
    models = make_pair()
    del models["decoder_with_past_model"]
    write_folder(tmp_path, models)
    with pytest.raises(
        UnsupportedError, match=r"with decoder_model.onnx and decoder_with_past.*found: d"
    ):
        adopt(tmp_path, engine=Engine.ADOPT)


def changed(edit: Callable[[onnx.GraphProto], None], stem: str, *, flat: bool = False) -> Models:
    models = make_pair(flat=flat)
    edit(models[stem].graph)
    return models


def node_of(graph: onnx.GraphProto, output: str) -> onnx.NodeProto:
    return next(node for node in graph.node if output in node.output)


def store(graph: onnx.GraphProto, name: str, value: float) -> None:
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.float32), name))


def other_softmax(graph: onnx.GraphProto) -> None:
    node_of(graph, "own/weights").op_type = "LogSoftmax"


def weak_mask(graph: onnx.GraphProto) -> None:
    store(graph, "least", -5.0)


def other_input(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows"]))


def doubled_places(graph: onnx.GraphProto) -> None:
    node_of(graph, "places/index").input[1] = "own"


def half_past(graph: onnx.GraphProto) -> None:
    for value in graph.input:
        if value.name == "past_key_values.0.decoder.key":
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def no_append(graph: onnx.GraphProto) -> None:
    node = node_of(graph, "present.0.decoder.key")
    node.input[:] = list(reversed(node.input))


def shifted(graph: onnx.GraphProto) -> None:
    """Add the length of the past to the logits, which is one number for all rows."""
    graph.node.append(helper.make_node("Cast", ["past/length"], ["more"], to=TensorProto.FLOAT))
    node_of(graph, "logits").output[0] = "less"
    graph.node.append(helper.make_node("Mul", ["less", "more"], ["logits"]))


REFUSED = {
    "softmax": (
        other_softmax,
        UnsupportedError,
        "attention of layer 0 over its decoder cache is n",
    ),
    "mask": (weak_mask, UnsupportedError, "does more than mask the padding of sources"),
    "input": (other_input, UnsupportedError, "takes .*pixels.* a decoder of an encoder-decoder t"),
    "places": (doubled_places, UnsupportedError, "neither counts the tokens one by one nor is th"),
    "float16": (half_past, UnsupportedError, r"0.decoder.key is not FLOAT \(rows, H, T, D\)"),
    "append": (no_append, UnsupportedError, "nothing appends new tokens to past_key_values.0.dec"),
    "number": (shifted, ParityError, "the rewritten graphs' logits are"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_rewritten_is_named(tmp_path, name):
    edit, error, said = REFUSED[name]
    refused(tmp_path, changed(edit, "decoder_with_past_model"), error, said)


def refused(folder: Path, models: Models, error: type[LmonnxError], said: str) -> None:
    write_folder(folder, models)
    with pytest.raises(error, match=said):
        adopt(folder)
    assert not (folder / "bundle").exists()


def test_keys_that_depend_on_tokens_are_refused(tmp_path):
    def of_words(graph: onnx.GraphProto) -> None:
        node_of(graph, "present.0.encoder.key/flat").input[0] = "x"

    models = changed(of_words, "decoder_model")
    refused(tmp_path, models, UnsupportedError, "are not made of it alone, but by input_ids")


def test_an_encoder_without_a_mask_is_refused(tmp_path):
    def unmasked(graph: onnx.GraphProto) -> None:
        next(v for v in graph.input if v.name == "attention_mask").name = "mask_of_all"
        node_of(graph, "there").input[0] = "mask_of_all"

    models = changed(unmasked, "encoder_model")
    refused(tmp_path, models, UnsupportedError, "an encoder takes input_ids and attention_mask")


def of_opset(version: int) -> Models:
    """Return the graphs as an older opset has them: axes are attributes before 13."""
    models = make_pair()
    for model in models.values():
        model.opset_import[0].version = version
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Unsqueeze" and version < 13:
                axes = numpy_helper.to_array(stored[node.input.pop()]).tolist()
                node.attribute.append(helper.make_attribute("axes", axes))
    return models


@pytest.mark.parametrize("version", [11, 12, 13, 16])
def test_older_opsets_are_raised(tmp_path, version):
    bundle = adopt(write_folder(tmp_path, of_opset(version)))  # is held to what was there
    assert {graph.opset for graph in bundle.manifest.graphs.values()} == {17}


def test_an_opset_before_the_oldest_is_refused(tmp_path):
    models = of_opset(10)
    refused(tmp_path, models, UnsupportedError, "is of opset 10, which cannot be raised to 17")


def test_graphs_of_two_opsets_are_refused(tmp_path):
    models = make_pair()
    models["encoder_model"].opset_import[0].version = 18
    refused(tmp_path, models, UnsupportedError, "are of the opsets 17 and 18, must be of one")


def test_a_damaged_file_is_named(tmp_path):
    write_folder(tmp_path, make_pair())
    (tmp_path / "onnx" / "decoder_model.onnx").write_bytes(b"no graph")
    with pytest.raises(StageError, match=r"decoder_model.onnx is not an ONNX graph"):
        adopt(tmp_path)
