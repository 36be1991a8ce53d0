"""Decoders are exported fused: optimize counts, and takes the bundle over."""

from dataclasses import replace

import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import draft_at
from lmonnx.bundle.manifest import Step
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.optimize.decoder import check_decoder
from lmonnx.errors import StageError
from tests.conftest import ROOT

DECODER = ROOT / "tests" / "unit" / "runtime" / "generate" / "tiny-decoder"


def exported(**operators):
    """Return a manifest as `export` leaves it, with other counts of operators."""
    manifest = Bundle.open(DECODER).manifest
    graph = manifest.graphs["model"]
    counts = {name: n for name, n in {**graph.operators, **operators}.items() if n}
    step = Step("export", {"engine": "native"}, {})
    graphs = {"model": replace(graph, operators=counts)}
    return replace(manifest, graphs=graphs, history=(step,))


def test_a_fused_decoder_is_counted():
    fused = check_decoder(exported())
    assert fused["GroupQueryAttention"] == exported().generation.cache.layers


@pytest.mark.parametrize("operators", [{"GroupQueryAttention": 1}, {"Softmax": 2}])
def test_attention_that_is_not_fused_is_refused(operators):
    with pytest.raises(StageError, match="2 layers"):
        check_decoder(exported(**operators))


def test_a_traced_decoder_is_as_fused_as_it_is():
    manifest = exported(GroupQueryAttention=0, Softmax=2)
    step = replace(manifest.history[0], options={"engine": "optimum"})
    assert "GroupQueryAttention" not in check_decoder(replace(manifest, history=(step,)))


def test_the_bundle_is_taken_over_once(tmp_path):
    source = tmp_path / "source"
    manifest = exported()

    before = Bundle.open(DECODER)
    with draft_at(source) as draft:
        draft.copy(before, (name for name in before.manifest.files if name != "README.md"))
        draft.seal(replace(manifest, files=None))
    made = optimize(Bundle.open(source), tmp_path / "made")
    assert made.manifest.graphs == manifest.graphs
    assert made.manifest.history[-1].metrics["fused"]["GroupQueryAttention"] == 2
    with pytest.raises(StageError, match="already"):
        optimize(made, tmp_path / "again")
