"""A bundle as a custom model of fastembed: the same vectors."""

import numpy as np
import pytest

import lmonnx
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import tiny

pytestmark = pytest.mark.interop
fastembed = pytest.importorskip("fastembed")

TEXTS = ["the film is good", "bad", "a good film that is not bad at all " * 20, "🙂 é 中文"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_fastembed_gives_the_bundles_vectors(tmp_path, pooling):
    from fastembed.common.model_description import ModelSource, PoolingType

    source = tiny.write_bert(tmp_path / "source", architectures=["BertModel"])
    bundle = export(
        open_checkpoint(str(source)), tmp_path / "b", pooling=pooling, verify=False
    ).path
    name = f"lmonnx/tiny-{pooling}"
    fastembed.TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN if pooling == "mean" else PoolingType.CLS,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=32,
        model_file="onnx/model.onnx",
        additional_files=["onnx/model.onnx_data"],
    )
    model = fastembed.TextEmbedding(name, specific_model_path=str(bundle), threads=1)
    found = np.array(list(model.embed(TEXTS)))
    np.testing.assert_allclose(found, lmonnx.load(bundle)(TEXTS, normalize=True), atol=1e-5)
