"""Vectors of decoders against live transformers and sentence-transformers."""

import numpy as np
import onnxruntime as ort
import pytest

import lmonnx
from lmonnx.bundle.manifest import Pooling
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests.parity.test_decoder_parity import SIZES, TOLERANCE, VARIANTS, made
from tests.tiny_text import byte_bpe_tokenizer, write_json

pytestmark = pytest.mark.parity

TASK = "feature-extraction"
LENGTHS = (3, 24, 1, 17, 24)
PADDING = 1
TEXTS = ["the film is good", "", "bad", "a good film that is not bad at all " * 3, "🙂 é 中文"]


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def embedder(folder, **options):
    return export(open_checkpoint(str(folder)), folder / "bundle", task=TASK, **options)


def padded(side):
    """Return ids of several lengths and their mask: (B, S) each."""
    draw = np.random.default_rng(0)
    ids = np.full((len(LENGTHS), max(LENGTHS)), PADDING, np.int64)
    mask = np.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        at = slice(0, length) if side == "right" else slice(ids.shape[1] - length, None)
        ids[row, at], mask[row, at] = draw.integers(0, SIZES["vocab_size"], length), 1
    return ids, mask


def base_of(model):
    # Of Gemma 3 `base_model` is the whole.
    return getattr(model, "model", model.base_model)


def states_of(model, torch, ids):
    with torch.inference_mode():
        return base_of(model)(torch.from_numpy(ids[None])).last_hidden_state[0].numpy()


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_every_field_of_every_family_gives_the_states_of_transformers_in_any_company(
    tmp_path, family, changes, torch
):
    model = made(tmp_path, family, changes, torch)
    bundle = embedder(tmp_path, verify=False)
    session = ort.InferenceSession(
        bundle.file("onnx/model.onnx"), providers=ort.get_available_providers()
    )
    for side in ("right", "left"):
        ids, mask = padded(side)
        given = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        for row, kept in enumerate(mask.astype(bool)):
            wanted = states_of(model, torch, ids[row][kept])
            assert np.abs(given[row][kept] - wanted).max() < TOLERANCE * np.ptp(wanted)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "gpt_neox"])
def test_a_model_saved_without_its_head_is_pooled_by_its_last_token(tmp_path, family, torch):
    model = base_of(made(tmp_path / "whole", family, {}, torch))
    made(tmp_path / "base", family, {}, torch)
    (tmp_path / "base" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "base")
    whole = embedder(tmp_path / "whole")
    base = export(open_checkpoint(str(tmp_path / "base")), tmp_path / "out")
    assert base.manifest.embedding.pooling == (Pooling.LAST,)
    assert all(bundle.manifest.history[-1].parity[0].relative < 1e-5 for bundle in (whole, base))
    np.testing.assert_array_equal(lmonnx.load(base.path)(TEXTS), lmonnx.load(whole.path)(TEXTS))


def saved(folder, torch, *, side, mode, eos):
    """Write a folder as Qwen3-Embedding's is, by sentence-transformers itself."""
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers import models

    made(folder / "base", "qwen3", {}, torch)
    tokenizer = byte_bpe_tokenizer()
    if not eos:
        from tokenizers import processors

        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.save(str(folder / "base" / "tokenizer.json"))
    write_json(
        folder / "base" / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "padding_side": side},
    )
    first = models.Transformer(str(folder / "base"), max_seq_length=32)
    pooling = models.Pooling(first.get_word_embedding_dimension(), pooling_mode=mode)
    model = st.SentenceTransformer(
        modules=[first, pooling, models.Normalize()],
        device="cpu",
        prompts={"query": "the film: ", "document": ""},
    )
    model.save_pretrained(str(folder / "saved"))
    return folder / "saved", st.SentenceTransformer(str(folder / "saved"), device="cpu")


@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize(
    ("side", "mode"), [("left", "lasttoken"), ("right", "lasttoken"), ("left", "mean")]
)
def test_a_sentence_transformers_folder_gives_the_vectors_of_its_own_library(
    tmp_path, torch, side, mode, eos
):
    folder, model = saved(tmp_path, torch, side=side, mode=mode, eos=eos)
    texts = TEXTS if eos else [text for text in TEXTS if text]
    bundle = export(open_checkpoint(str(folder)), tmp_path / "bundle", verify=False)
    ours = lmonnx.load(bundle.path)
    np.testing.assert_allclose(ours(texts), model.encode(texts), atol=1e-5)
    np.testing.assert_allclose(
        ours(texts, prompt_name="query"), model.encode(texts, prompt_name="query"), atol=1e-5
    )
