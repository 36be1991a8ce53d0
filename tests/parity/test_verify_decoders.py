"""verify of decoders: against a checkpoint, against a GGUF file, and of quantized bundles."""

import pytest
from tokenizers.processors import ByteLevel

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.quantize import quantize
from lmonnx.compiler.verify import verify_against
from lmonnx.errors import ParityError, StageError
from lmonnx.measure.decisions import decision_of
from lmonnx.measure.next_logits import raw_models
from lmonnx.measure.parity import require_parity
from tests.parity.test_decoder_parity import CASES, made
from tests.parity.test_gguf_parity import converted
from tests.tiny_text import byte_bpe_tokenizer

pytestmark = pytest.mark.parity

EMBEDS = "feature-extraction"
TOLERANCE = 3e-5  # of the range
# Of Gemma 2 and 3 what GGUF has no key for follows from the sizes of the real ones.
OURS = {"gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 16}}
OURS["gemma3_text"] = {**OURS["gemma2"], "num_hidden_layers": 7}
UNSCALED = {family: OURS.get(family, {}) for family in CASES}


@pytest.fixture(scope="module")
def torch():
    import torch

    torch.set_num_threads(1)
    return torch


def unframed(folder):
    """Let the tokenizer put nothing around a text, as that of the GGUF file."""
    tokenizer = byte_bpe_tokenizer()
    tokenizer.post_processor = ByteLevel(trim_offsets=False)
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("task", ["text-generation", EMBEDS])
@pytest.mark.parametrize("family", UNSCALED)
def test_a_bundle_is_held_to_the_gguf_file_of_its_checkpoint(tmp_path, family, task, torch):
    model = made(tmp_path, family, UNSCALED[family], torch)
    unframed(tmp_path)
    bundle = export(open_checkpoint(str(tmp_path)), tmp_path / "bundle", task=task, verify=False)
    file = open_checkpoint(str(converted(tmp_path, model)))
    assert verify_against(bundle, file).relative < TOLERANCE
    (parity,) = export(file, tmp_path / "of-file", task=task).manifest.history[-1].parity
    assert parity.relative < TOLERANCE and parity.reference == "transformers on model"


def test_a_bundle_of_another_model_misses_a_gguf_file(tmp_path, torch):
    made(tmp_path / "one", "llama", {}, torch)
    other = made(tmp_path / "two", "llama", {"rope_theta": 500.0}, torch)
    bundle = export(open_checkpoint(str(tmp_path / "one")), tmp_path / "bundle", verify=False)
    parity = verify_against(bundle, open_checkpoint(str(converted(tmp_path / "two", other))))
    with pytest.raises(ParityError, match="of the range on 100 texts"):
        require_parity(parity, bundle.manifest.precision)


def test_a_gguf_file_without_a_tensor_is_no_reference(tmp_path, torch):
    model = made(tmp_path, "llama", {}, torch)
    bundle = export(open_checkpoint(str(tmp_path)), tmp_path / "bundle", verify=False)
    checkpoint = open_checkpoint(str(converted(tmp_path, model)))
    del checkpoint.gguf.tensors["model.norm.weight"]
    with pytest.raises(
        StageError, match=r"no model\.norm\.weight, which transformers' model wants"
    ):
        verify_against(bundle, checkpoint)


@pytest.mark.parametrize(
    "options", [{"bits": 8}, {"method": "dynamic"}, {"method": "both", "bits": 8}]
)
def test_a_quantized_decoder_is_judged_by_its_worst_graph(tmp_path, options, torch):
    made(tmp_path, "llama", {}, torch)
    checkpoint = open_checkpoint(str(tmp_path))
    source = export(checkpoint, tmp_path / "bundle", verify=False)
    bundle = quantize(source, tmp_path / "small", calibrate=False, max_drop=1.0, **options)
    assert len(raw_models(bundle)) == len(bundle.manifest.graphs)
    parity = verify_against(bundle, checkpoint)
    assert 1e-4 < parity.relative < 0.2
    require_parity(parity, bundle.manifest.precision, decision_of(bundle.manifest))
