"""Bundles of every precision, and adopted ones, decode by a list as by the whole vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import quantize_dynamic

import lmonnx
from lmonnx import SamplingParams, StageError
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import load_graph, read_weight
from lmonnx.compiler.quantize import quantize
from lmonnx.compiler.quantize.pairs import Pair, PairModel
from lmonnx.compiler.quantize.sources import read_sources
from lmonnx.compiler.shortlist import shortlist
from lmonnx.runtime.generate.pair_graphs import DECODER, gives_flat
from tests.published_pair import make_pair, write_folder
from tests.tiny_seq2seq import VOCABULARY, write_marian
from tests.unit.compiler.shortlist.listed import made_up, write

pytestmark = pytest.mark.compiler

START, EOS = 1, 2
TEXTS = [
    "the quick fox", "a dog", "over", "two lazy dogs", "x", "the fox and the dog", "jumps", "a b c"
]  # fmt: skip
ALWAYS = (START, EOS, *range(40, 120, 9))
LISTS = {t: [(11 * t + 13 * k) % VOCABULARY for k in range(9)] for t in range(3, VOCABULARY)}
KINDS = ({}, {"num_beams": 3, "n": 2}, {"temperature": 1.0, "seed": 5})
CALIBRATION = "\n".join(f"{text} {word}" for text in TEXTS for word in ("and", "or"))
NEAR = 0.1  # of the logits' range: heads of blocks round what flows in, those of a list do not


def marian(folder: Path) -> Bundle:
    """Export a Marian: one table at both ends, and a bias of the logits."""
    checkpoint = open_checkpoint(str(write_marian(folder / "source")))
    return export(checkpoint, folder / "float", verify=False)


def adopted(folder: Path) -> Bundle:
    """Take over graphs as optimum publishes them."""
    published = write_folder(folder / "source", make_pair())
    checkpoint = open_checkpoint(str(published))
    return export(checkpoint, folder / "float", task=Task.TEXT_TO_TEXT, verify=False)


# What each is made of, and how it is quantized.
BLOCKS = "Marian, 4 bits"
FORMS = {
    "Marian, float32": (marian, None),
    "Marian, int8": (marian, {}),
    BLOCKS: (marian, {"bits": 4, "calibrate": False}),
    "adopted, float32": (adopted, None),
    "adopted, int8": (adopted, {}),
}
EXACT = [name for name in FORMS if name != BLOCKS]


@dataclass(frozen=True)
class Listed:
    """A bundle, the same with a list of all ids, and with lists by token."""

    free: Bundle
    every: Bundle
    some: Bundle


@pytest.fixture(scope="module", params=FORMS)
def form(request, tmp_path_factory) -> Listed:
    make, how = FORMS[request.param]
    folder = tmp_path_factory.mktemp("form")
    bundle = make(folder)
    if how is not None:
        bundle = quantize(bundle, folder / "made", text=CALIBRATION, max_drop=1, **how)
    maps = (made_up(range(VOCABULARY), {}, VOCABULARY), made_up(ALWAYS, LISTS, VOCABULARY))
    every, some = (write(bundle.path, folder / f"listed-{i}", made) for i, made in enumerate(maps))
    return Listed(bundle, every, some)


def answers(bundle, texts, options, threads=1):
    """Return the tokens, endings and scores of each text's answers."""
    params = SamplingParams(max_new_tokens=12, **options)
    with lmonnx.load(bundle.path, threads=threads) as model:
        found = model(list(texts), params)
    return [((a.token_ids, a.finish_reason), a.score or 0.0) for a in found]


def same(found, wanted):
    """Compare answers: tokens to the last, scores as float32 allows."""
    assert [said for said, _ in found] == [said for said, _ in wanted]
    assert [score for _, score in found] == pytest.approx([s for _, s in wanted], abs=1e-5)


@pytest.mark.parametrize("form", EXACT, indirect=True)
@pytest.mark.parametrize("options", KINDS, ids=str)
def test_a_list_of_all_ids_changes_no_answer(form, options):
    same(answers(form.every, TEXTS, options), answers(form.free, TEXTS, options))


@pytest.mark.parametrize("form", [BLOCKS], indirect=True)
def test_what_a_list_of_all_ids_says_in_blocks_is_as_likely_as_any(form):
    model, start = PairModel(form.free), form.free.manifest.generation.seq2seq.start_id
    sources = read_sources(form.free, TEXTS)
    for source, ((said, _), _) in zip(sources, answers(form.every, TEXTS, {}), strict=True):
        logits = model.logits(Pair(source, np.array([start, *said])))[:-1]
        lacking = logits.max(axis=1) - logits[np.arange(len(said)), list(said)]
        assert lacking.max() <= NEAR * np.ptp(logits)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_an_answer_hangs_on_its_own_source_alone(form, options):
    alone = [each for text in TEXTS for each in answers(form.some, [text], options)]
    for threads in (1, 2):
        same(answers(form.some, TEXTS, options, threads), alone)
    count = options.get("n", 1)
    turned = answers(form.some, TEXTS[::-1], options)
    back = [each for i in reversed(range(len(TEXTS))) for each in turned[i * count :][:count]]
    same(back, alone)


def test_lists_differ_and_are_kept_to(form):
    said = answers(form.some, TEXTS, {"num_beams": 3, "n": 2})
    free = answers(form.free, TEXTS, {"num_beams": 3, "n": 2})
    assert [tokens for tokens, _ in said] != [tokens for tokens, _ in free]
    for place, ids in enumerate(read_sources(form.free, TEXTS)):
        own = {*ALWAYS, *(index for token in ids.tolist() for index in LISTS.get(token, ()))}
        for (tokens, _), _ in said[2 * place :][:2]:
            assert set(tokens) <= own
        assert len(own) < VOCABULARY // 2


def test_a_bias_inside_the_product_is_cut_to_the_list(tmp_path):
    bundle = quantize(marian(tmp_path), tmp_path / "made", text=CALIBRATION, max_drop=1)
    assert gives_flat(bundle.manifest.graphs[DECODER])
    path = bundle.file(bundle.manifest.graphs[DECODER].file)
    graph = load_graph(path).graph
    head = next(node for node in graph.node if "logits" in node.output)
    stored = next(tensor for tensor in graph.initializer if tensor.name == head.input[6])
    assert head.op_type == "QGemm" and read_weight(stored, path.parent).any()
    made = write(bundle.path, tmp_path / "listed", made_up(ALWAYS, {}, VOCABULARY))
    graph = load_graph(made.file(made.manifest.graphs[DECODER].file)).graph
    product = next(node for node in graph.node if node.op_type == "QGemm" and len(node.input) > 6)
    gather = next(node for node in graph.node if product.input[6] in node.output)
    assert list(gather.input) == [head.input[6], "shortlist"]
    assert gives_flat(made.manifest.graphs[DECODER])


def published_in_integers(folder: Path) -> Bundle:
    """Adopt graphs that onnxruntime's tool has quantized."""
    published = write_folder(folder / "source", make_pair())
    for path in list((published / "onnx").glob("*.onnx")):
        target = path.with_name(f"{path.stem}_int8.onnx")
        quantize_dynamic(path, target, op_types_to_quantize=["MatMul"])
        path.unlink()
    options = {"task": Task.TEXT_TO_TEXT, "variant": "int8", "verify": False}
    return export(open_checkpoint(str(published)), folder / "adopted", **options)


def test_heads_that_others_quantized_are_refused_before_anything_is_learnt(tmp_path, monkeypatch):
    bundle = published_in_integers(tmp_path)
    monkeypatch.setattr("lmonnx.compiler.shortlist.read_corpus", None)
    with pytest.raises(StageError, match=r"no list can be taken; .* its float32 graphs, with `lm"):
        shortlist(bundle, tmp_path / "listed", text=CALIBRATION)
    assert not (tmp_path / "listed").exists()


def test_a_head_that_is_scaled_is_refused(tmp_path):
    bundle = adopted(tmp_path)
    path = bundle.file(bundle.manifest.graphs[DECODER].file)
    model = load_graph(path)
    head = next(node for node in model.graph.node if "logits" in node.output)
    assert head.op_type == "FusedMatMul"
    stated = [each for each in head.attribute if each.name != "alpha"]
    del head.attribute[:]
    head.attribute.extend([*stated, helper.make_attribute("alpha", 0.5)])
    onnx.save(model, path)
    changed = Bundle.open(bundle.path, verify=False)
    with pytest.raises(StageError, match=r"is scaled or turned; export the checkpoint, or its flo"):
        write(changed.path, tmp_path / "listed", made_up(ALWAYS, {}, VOCABULARY))
