"""Vectors against live transformers and sentence-transformers' rules, written here in torch."""

import csv
from pathlib import Path

import numpy as np
import pytest

import lmonnx
from lmonnx.bundle.manifest import Pooling
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.quantize import quantize
from lmonnx.runtime.pooling import pool
from tests import tiny
from tests.texts import mixed_texts

pytestmark = pytest.mark.parity

TEXTS = [item for item in mixed_texts() if isinstance(item, str)]
MODES = [mode for mode in Pooling if mode is not Pooling.NONE]
BATCH = 8
STSB = "data/stsb/stsb-en-dev.csv"


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(2)
    return torch


def pooled(torch, hidden, mask, mode: Pooling):
    """Return one vector a row, as `Pooling` of sentence-transformers 6.2 does.

    Its weighted mean counts places from the padding on; here from the first token, so that the
    other texts of a batch do not matter.
    """
    wide = mask.unsqueeze(-1).expand_as(hidden).float()
    rows = torch.arange(len(hidden))
    if mode is Pooling.CLS:
        return hidden[rows, mask.argmax(dim=1)]
    if mode is Pooling.LAST:
        size = mask.shape[1]
        return (hidden * wide)[rows, size - 1 - mask.flip(1).argmax(dim=1)]
    if mode is Pooling.MAX:
        return hidden.masked_fill(wide == 0, float("-inf")).max(dim=1).values
    if mode is Pooling.WEIGHTED_MEAN:
        wide = wide * mask.cumsum(dim=1).unsqueeze(-1)
    total, count = (hidden * wide).sum(dim=1), wide.sum(dim=1).clamp(min=1e-9)
    return total / (count.sqrt() if mode is Pooling.MEAN_SQRT else count)


def states(torch, source: Path, texts, *, side="right", max_length=None, batch: int = BATCH):
    """Yield each padded batch's last hidden state and mask."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
    tokenizer.padding_side = side
    model = AutoModel.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            inputs = tokenizer(
                list(texts[start : start + batch]),
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            )
            yield model(**inputs).last_hidden_state, inputs["attention_mask"]


@pytest.fixture(scope="module", params=["bert", "roberta", "mpnet"])
def case(request, torch, tmp_path_factory):
    """Give a checkpoint, and transformers' hidden states of the texts."""
    folder = tmp_path_factory.mktemp(request.param)
    source = tiny.WRITERS[request.param](folder / "source")
    return source, folder, list(states(torch, source, TEXTS))


@pytest.mark.parametrize("mode", MODES)
def test_every_pooling_equals_the_rule_on_transformers_states(torch, case, mode):
    source, folder, batches = case
    bundle = export(
        open_checkpoint(str(source)),
        folder / mode,
        task="feature-extraction",
        pooling=mode.value,
        verify=False,
    )
    expected = torch.cat([pooled(torch, hidden, mask, mode) for hidden, mask in batches]).numpy()
    found = lmonnx.load(bundle.path, threads=2)(TEXTS)
    assert np.abs(found - expected).max() < 1e-5 * max(1.0, np.ptp(expected))


def test_token_vectors_are_transformers_states_without_the_padding(torch, case):
    source, folder, batches = case
    bundle = export(
        open_checkpoint(str(source)), folder / "tokens", task="feature-extraction", verify=False
    )
    expected = [
        row[kept.bool()].numpy()
        for hidden, mask in batches
        for row, kept in zip(hidden, mask, strict=True)
    ]
    found = lmonnx.load(bundle.path, threads=2).token_embeddings(TEXTS)
    assert [row.shape for row in found] == [row.shape for row in expected]
    assert max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True)) < 2e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", MODES)
def test_numpy_pools_as_torch_does_on_either_side_of_padding(torch, tmp_path, side, mode):
    source = tiny.write_bert(tmp_path / "source")
    for hidden, mask in states(torch, source, TEXTS[::3], side=side):
        expected = pooled(torch, hidden, mask, mode).numpy()
        found = pool(hidden.numpy(), mask.numpy(), mode)
        np.testing.assert_allclose(found, expected, atol=1e-5)


# A real model ------------------------------------------------------------------------------------


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0, equal values sharing the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[place]


def spearman(vectors: np.ndarray, scores: np.ndarray) -> float:
    first, second = np.split(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 2)
    return float(np.corrcoef(ranks((first * second).sum(axis=1)), ranks(scores))[0, 1])


@pytest.fixture(scope="module")
def stsb(shared):
    with (shared / STSB).open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    texts = [row[0] for row in rows] + [row[1] for row in rows]
    return texts, np.array([float(row[2]) for row in rows])


@pytest.mark.shared
@pytest.mark.models
def test_minilm_ranks_stsb_as_transformers_does_and_int8_hardly_worse(
    torch, minilm, stsb, tmp_path
):
    source = export(
        open_checkpoint(str(minilm)), tmp_path / "bundle", task="feature-extraction", verify=False
    )
    texts, scores = stsb
    order = np.argsort([len(text) for text in texts])
    rows = [
        pooled(torch, hidden, mask, Pooling.MEAN)
        for hidden, mask in states(
            torch, minilm, [texts[i] for i in order], max_length=256, batch=64
        )
    ]
    expected = np.empty((len(texts), 384), np.float32)
    expected[order] = torch.nn.functional.normalize(torch.cat(rows)).numpy()
    found = lmonnx.load(source.path, threads=2)(texts)
    assert np.abs(found - expected).max() < 1e-5
    stated = spearman(expected, scores)
    assert round(spearman(found, scores), 4) == round(stated, 4)
    narrow = lmonnx.load(quantize(source, tmp_path / "int8").path, threads=2)
    assert abs(spearman(narrow(texts), scores) - stated) < 0.005
