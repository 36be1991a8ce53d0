"""Encoder-decoders traced by optimum, or adopted from its files, against live transformers."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest

from lmonnx import SamplingParams
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import Engine, export
from lmonnx.compiler.export.adopt_pair import adopt_pair
from lmonnx.compiler.export.native.seq2seq import SEQ2SEQS
from lmonnx.compiler.export.traced import traced_folder
from lmonnx.compiler.graph import read_weight
from lmonnx.errors import StageError, UnsupportedError
from tests import tiny_pairs
from tests.parity import test_seq2seq_families as families
from tests.parity.test_rewriting_parity import TEXTS, check, stops
from tests.tiny_pairs import MOST, TRACED, Case, family_of

pytestmark = [pytest.mark.parity, pytest.mark.shared, pytest.mark.usefixtures("quiet")]

TOLERANCE = 2e-5  # of the range; float32 sums in another order
NAMES = ("bart", "mbart-50", "pegasus", "m2m100", "t5", "mt5", "marian", *TRACED)
WITH_PAST = "text2text-generation-with-past"


@pytest.fixture(scope="module")
def torch():
    import torch

    return torch


@pytest.fixture(scope="module", params=NAMES)
def case(request, tmp_path_factory) -> Case:
    """Give a checkpoint in transformers, and the bundle that optimum's trace became."""
    folder = tmp_path_factory.mktemp("traced")
    tokenizer, model = tiny_pairs.write(folder / "checkpoint", request.param)
    checkpoint = open_checkpoint(str(folder / "checkpoint"))
    engine = Engine.OPTIMUM if checkpoint.architecture in SEQ2SEQS else Engine.AUTO
    export(checkpoint, folder / "bundle", engine=engine)
    return Case(request.param, tokenizer, model, folder / "bundle")


def is_answered_alike(case: Case, beams: int) -> None:
    """Answer all texts in one batch, and each by transformers."""
    ends, options = stops(case), {"num_beams": beams, "num_return_sequences": beams}
    params = SamplingParams(num_beams=beams, n=beams, max_new_tokens=MOST, stop_ids=ends[1:])
    with case.load() as model:
        found = model(TEXTS, params, **family_of(case.name).asked)
    for number, text in enumerate(TEXTS):
        wanted = case.wanted(text, **options, max_new_tokens=MOST, eos_token_id=ends)
        check(found[number * beams : (number + 1) * beams], wanted, ends)


def test_it_is_traced_and_held_to_transformers(case):
    step = Bundle.open(case.bundle).manifest.history[0]
    assert step.options["engine"] == Engine.OPTIMUM.value
    assert step.parity[0].relative < TOLERANCE


@pytest.mark.parametrize("beams", [1, 4])
def test_a_batch_is_answered_as_each_text_is_by_transformers(case, beams):
    is_answered_alike(case, beams)


def test_no_weight_is_stored_twice(case):
    bundle, stored = Bundle.open(case.bundle), {}
    for spec in bundle.manifest.graphs.values():
        path = bundle.file(spec.file)
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            place = {entry.key: entry.value for entry in tensor.external_data}
            if place:
                array = np.ascontiguousarray(read_weight(tensor, path.parent))
                digest = hashlib.sha256(array.tobytes()).hexdigest()
                stored[place["location"], place["offset"]] = digest, array.nbytes
    hashes = [digest for digest, _ in stored.values()]
    assert len(set(hashes)) == len(hashes)
    weights = 4 * sum(weight.numel() for weight in case.model.parameters())
    # Tables of sines are no parameters where they are computed.
    places = 2 * tiny_pairs.POSITIONS * 4 * case.model.config.d_model
    assert sum(size for _, size in stored.values()) <= weights + places


SIZES = [
    ("bart", {"decoder_attention_heads": 4, "activation_function": "relu"}),
    ("bart", families._ODD_HEADS),
    ("m2m_100", {"pad_token_id": 0, "decoder_attention_heads": 4}),
    ("marian", families._LARGE_HEADS),
    ("marian", {"share_encoder_decoder_embeddings": False, "decoder_attention_heads": 4}),
    ("pegasus", {"decoder_attention_heads": 4, "tie_word_embeddings": False}),
    ("mt5", {"d_kv": 12, "num_decoder_layers": 1}),
    ("t5", {"d_kv": 4, "tie_word_embeddings": False}),
    ("t5", {"num_heads": 3, "feed_forward_proj": "gelu"}),
]


@pytest.mark.parametrize(("family", "changes"), SIZES)
def test_heads_and_tables_of_every_kind_give_the_logits_of_transformers(
    tmp_path, family, changes, torch
):
    model = families.made(tmp_path, family, changes, torch)
    with traced_folder(open_checkpoint(str(tmp_path)), Task.TRANSLATION) as folder:
        draft = Draft(tmp_path / "draft")
        made = adopt_pair(folder, draft, None)
    graphs = {role: draft.path / spec.file for role, spec in made.graphs.items()}
    families.check(families.compared(graphs, made.cache, model, torch), torch)


def optimum_files(folder, *, merged: bool) -> None:
    """Put optimum's ONNX in the place of a checkpoint's weights."""
    from optimum.exporters.onnx import main_export

    main_export(str(folder), output=folder / "onnx", task=WITH_PAST, do_validation=False)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    apart = {"decoder_model.onnx", "decoder_with_past_model.onnx"}
    for name in apart if merged else {"decoder_model_merged.onnx"}:
        (folder / "onnx" / name).unlink()


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("name", ["bart", "t5", "blenderbot"])
def test_a_folder_of_optimums_graphs_alone_is_adopted(tmp_path, name, merged):
    tokenizer, model = tiny_pairs.write(tmp_path / "checkpoint", name)
    optimum_files(tmp_path / "checkpoint", merged=merged)
    bundle = export(open_checkpoint(str(tmp_path / "checkpoint")), tmp_path / "bundle")
    assert bundle.manifest.history[0].options["engine"] == Engine.ADOPT.value
    is_answered_alike(Case(name, tokenizer, model, bundle.path), 4)


@pytest.mark.parametrize("model_type", ["plbart", "mvp"])
def test_what_nobody_can_export_is_said_with_the_way_out(tmp_path, torch, model_type):
    families.made(tmp_path, model_type, {"decoder_attention_heads": 4}, torch)
    with pytest.raises(UnsupportedError, match=r"neither lmonnx nor optimum .*--engine adopt"):
        export(open_checkpoint(str(tmp_path)), tmp_path / "bundle", task="summarization")


@pytest.mark.parametrize("name", ["bart", "t5", "m2m100"])
def test_a_deeper_decoder_is_held_to_transformers_too(tmp_path, name, monkeypatch):
    """The cache of transformers 4.57 has as many layers as the encoder, and fails."""
    layers = (
        ("num_layers", "num_decoder_layers")
        if name == "t5"
        else ("encoder_layers", "decoder_layers")
    )
    for fields in (tiny_pairs._T5, tiny_pairs._BART):
        monkeypatch.setitem(fields, layers[0], 1)
        monkeypatch.setitem(fields, layers[1], 3)
    tiny_pairs.write(tmp_path / "checkpoint", name)
    bundle = export(open_checkpoint(str(tmp_path / "checkpoint")), tmp_path / "bundle")
    (parity,) = bundle.manifest.history[-1].parity
    assert parity.relative < 1e-4 and parity.agreement == 1


def test_block_sparse_attention_is_not_traced_as_if_it_were_full(tmp_path, torch):
    families.made(tmp_path, "bigbird_pegasus", {"decoder_attention_heads": 4}, torch)
    with pytest.raises(UnsupportedError, match="with full attention in the place of the block-s"):
        export(open_checkpoint(str(tmp_path)), tmp_path / "bundle", engine=Engine.OPTIMUM)


def test_weights_that_transformers_would_draw_are_an_error(tmp_path, torch):
    changes = {"tie_word_embeddings": False, "decoder_attention_heads": 4}
    families.made(tmp_path, "bart", changes, torch)
    with pytest.raises(
        StageError, match=r"finds no weights for model.decoder.emb.* draws them; use --engine nat"
    ):
        export(open_checkpoint(str(tmp_path)), tmp_path / "bundle", engine=Engine.OPTIMUM)


def test_a_trace_that_does_not_run_with_short_texts_is_refused(tmp_path, torch):
    globally = {"encoder_attention_type": "transient-global", "global_block_size": 3}
    families.made(tmp_path, "longt5", {"local_radius": 4, **globally}, torch)
    with pytest.raises(UnsupportedError, match=r"graphs do not run: .*encoder_model.onnx fails"):
        export(open_checkpoint(str(tmp_path)), tmp_path / "bundle", verify=False)
