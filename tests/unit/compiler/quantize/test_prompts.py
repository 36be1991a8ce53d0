"""Four bits with a graph that reads prompts: its weights are those of the blocks, made at load."""

import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import load_graph, read_weight
from lmonnx.compiler.quantize import quantize
from lmonnx.errors import BundleError, InputError
from lmonnx.measure.perplexity import Predictor, read_windows
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.row_weights import all_by_rows
from tests.tiny_decoders import write_llama

pytestmark = pytest.mark.compiler
LAYERS = 2

TEXT = "the little dog saw a big red ball in the park and the girl and the boy ran home " * 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    source = write_llama(folder / "source")
    return export(open_checkpoint(str(source)), folder / "float", verify=False)


@pytest.fixture(scope="module")
def made(bundle, tmp_path_factory):
    return made_of(bundle, tmp_path_factory.mktemp("made") / "made")


def made_of(bundle, target, **options):
    return quantize(bundle, target, text=TEXT, max_drop=1, **options)


def tensors(bundle, role):
    graph = load_graph(bundle.file(f"onnx/{role}.onnx")).graph
    return {tensor.name: tensor for tensor in graph.initializer}


def unpacked(packed):
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


def test_prompts_are_read_by_rows_and_nothing_is_stored_for_it(bundle, made, tmp_path):
    graphs = made.manifest.graphs
    assert set(graphs) == {"model", "prompt"} and not graphs["model"].made
    assert graphs["prompt"].operators["MatMulIntegerToFloat"] == 4 * LAYERS
    assert len(graphs["prompt"].made) == 4 * LAYERS
    alone = made_of(bundle, tmp_path / "alone", int8_prompts=False)
    assert set(alone.manifest.graphs) == {"model"}
    sizes = [sum(f.stat().st_size for f in b.path.glob("onnx/*_data")) for b in (alone, made)]
    matrices = sum(int(np.prod(each.shape)) for each in graphs["prompt"].made)
    assert sizes[1] - sizes[0] < matrices / 2
    assert Bundle.open(made.path)  # hashes, and every file that weights are made of


def span(folder, where, count):
    return np.fromfile(folder / where.file, np.float32, count, offset=where.offset)


def test_its_weights_are_those_of_the_blocks(made):
    folder, held = made.path / "onnx", tensors(made, "model")
    specs = made.manifest.graphs["prompt"].made
    found = all_by_rows(folder, specs, 2)
    for spec in specs:
        inputs, outputs = spec.shape
        stem = spec.name.removesuffix("_int8")
        blocks, scales, zeros = (
            read_weight(held[f"{stem}_{part}"], folder) for part in ("blocks", "scales", "zeros")
        )
        centred = unpacked(blocks).astype(float) - unpacked(zeros)[:, : scales.shape[1], None]
        floats = (centred * scales[..., None]).reshape(outputs, -1)[:, :inputs].T
        if spec.factors is not None:
            floats *= span(folder, spec.factors, inputs)[:, None]
        steps = span(folder, spec.steps, outputs)
        assert np.abs(found[spec.name] * steps - floats).max() <= 0.5001 * steps.max()
        assert np.abs(found[spec.name]).max(axis=0).min() == 63


def test_both_graphs_answer_alike(bundle, made):
    ids = read_windows(bundle, TEXT)[0]
    exact, few, many = (
        Predictor(*which).logits(ids) for which in ((bundle,), (made,), (made, "prompt"))
    )
    lost = ((few - exact) ** 2).mean()
    assert ((many - few) ** 2).mean() < 0.5 * lost  # int8 is finer than what four bits lost
    assert ((many - exact) ** 2).mean() < 1.5 * lost


@pytest.mark.parametrize(
    "options",
    [{"bits": 8}, {"calibrate": False}, {"method": "both"}, {"method": "dynamic"}],
)
def test_other_forms_have_no_graph_for_prompts(bundle, tmp_path, options):
    assert "prompt" not in made_of(bundle, tmp_path / "made", **options).manifest.graphs


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"hidden_size": 192, "head_dim": 48, "num_attention_heads": 4},
    ],
)
@pytest.mark.parametrize("options", [{}, {"block_size": 64}, {"keep": ["down_proj"]}])
def test_odd_forms_are_read_alike_too(tmp_path, changes, options):
    source = write_llama(tmp_path / "source", **changes)
    bundle = export(open_checkpoint(str(source)), tmp_path / "float", verify=False)
    test_both_graphs_answer_alike(bundle, made_of(bundle, tmp_path / "made", **options))


def test_load_says_whether_it_is_taken(made):
    loaded = {}
    for asked in (None, True, False):
        with lmonnx.load(made.path, int8_prompts=asked) as model:
            loaded[asked] = model._engine._decoder
            (answer,) = model(["the little dog"], SamplingParams(max_new_tokens=4))
            assert answer.completion_tokens == 4
    assert [set(loaded[asked]._sessions) for asked in (None, False)] == [
        {"model", "prompt"},
        {"model"},
    ]
    assert loaded[True]._reading == "prompt" and loaded[False]._reading == "model"


def test_large_bundles_read_prompts_by_blocks_unasked(made, monkeypatch):
    monkeypatch.setattr("lmonnx.runtime.session.MOST_BYTES_TWICE", made.bytes - 1)
    with lmonnx.load(made.path) as model:
        assert model._engine._decoder._reading == "model"
    with lmonnx.load(made.path, int8_prompts=True) as model:
        assert model._engine._decoder._reading == "prompt"


def test_int8_prompts_means_nothing_for_others(tiny_bundle):
    with pytest.raises(InputError, match="int8_prompts means nothing"):
        lmonnx.load(tiny_bundle, int8_prompts=True)


@pytest.mark.parametrize("wrong", ["false", 1, 0, [], {}])
def test_int8_prompts_is_yes_or_no(made, wrong):
    with pytest.raises(InputError, match=re.escape(f"int8_prompts is {wrong!r}; give")):
        lmonnx.load(made.path, int8_prompts=wrong)


def test_plain_onnxruntime_refuses_the_graph_that_has_no_weights(made):
    with pytest.raises(Exception, match="out of bounds"):
        ort.InferenceSession(made.path / "onnx/prompt.onnx", providers=["CPUExecutionProvider"])
    assert onnx.load(made.path / "onnx/model.onnx")  # whole


def is_refused(made, folder, change, match):
    """Edit what the manifest says of the first matrix that is made; the bundle does not open."""
    shutil.copytree(made.path, folder)
    path = folder / "lmonnx.json"
    fields = json.loads(path.read_text())
    change(fields["graphs"]["prompt"]["made"])
    path.write_text(json.dumps(fields))
    with pytest.raises(BundleError, match=match) as caught:
        Bundle.open(folder, verify=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["../secret", "elsewhere", "/etc/passwd"])
def test_weights_are_made_of_listed_files_alone(made, tmp_path, file):
    is_refused(
        made,
        tmp_path / "copy",
        lambda all_made: all_made[0]["blocks"].update(file=file),
        "file|hash",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [96, 1]}, {"shape": [1, 96]}, {"shape": [96]}, {"shape": []}, {"name": "nobody"},
        {"name": "input_ids"}, {"name": ""}, {"name": "a\0b"}, {"name": "\ud800"},
        {"name": "model.norm.weight"},
    ],
)  # fmt: skip
def test_what_is_made_is_what_the_graph_declares(made, tmp_path, change):
    """With another shape onnxruntime reads beyond it, and the process ends."""
    is_refused(
        made, tmp_path / "copy", lambda all_made: all_made[0].update(change), "no int8 matrix"
    )
