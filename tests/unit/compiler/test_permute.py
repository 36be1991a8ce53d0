"""benchmarks/permute.py: the same function in another order of weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.measure.perplexity import Predictor
from tests.tiny_decoders import VOCABULARY, write_llama

pytestmark = pytest.mark.compiler
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "permute.py"


def permute(source, target):
    command = [sys.executable, str(SCRIPT), str(source), "-o", str(target), "--seed", "0"]
    subprocess.run(command, check=True)


def test_the_copy_computes_the_same_and_no_matrix_is_where_it_was(tmp_path):
    source = write_llama(tmp_path / "source")
    permute(source, tmp_path / "copy")
    ids = np.random.default_rng(0).integers(VOCABULARY, size=30)
    first, second = (
        Predictor(export(open_checkpoint(str(folder)), tmp_path / name, verify=False)).logits(ids)
        for name, folder in (("one", source), ("two", tmp_path / "copy"))
    )
    np.testing.assert_allclose(first, second, atol=1e-4)
    before, after = (load_file(f / "model.safetensors") for f in (source, tmp_path / "copy"))
    for name, weights in before.items():
        assert np.sort(np.abs(weights), axis=None).tolist() == (
            np.sort(np.abs(after[name]), axis=None).tolist()
        )
        assert (weights != after[name]).mean() > 0.5
