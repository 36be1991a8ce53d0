"""Every quantized form of every encoder loses what its rounding alone does, and no more.

Norms have gains from 0.2 to 5 of both signs: where these are 1, factors are 1 too, and a matrix
that is stored with those of another value answers alike.
"""

import numpy as np
import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from lmonnx.compiler.graph import graph_spec, load_graph
from lmonnx.compiler.optimize import optimize
from lmonnx.compiler.quantize.calibration import observe, text_batches
from lmonnx.compiler.quantize.dynamic import Granularity, write_int8
from lmonnx.compiler.quantize.layers import find_layers
from lmonnx.measure.sentences import fit, parity_sentences
from lmonnx.progress import silent
from lmonnx.runtime.session import Session, SessionConfig
from tests import tiny, tiny_more
from tests.rounded import is_close, uneven, write_rounded

pytestmark = pytest.mark.compiler
CLASSES, MASKED, VECTORS = "text-classification", "fill-mask", "feature-extraction"
# One layer twice; twelve make small errors large.
TWICE = {"num_hidden_layers": 2, "num_hidden_groups": 1, "inner_group_num": 1}
FAMILIES = {
    "bert": (tiny.write_bert, "token-classification", {}),
    "bert, tied": (tiny.write_bert, MASKED, {}),
    "bert, untied": (tiny.write_bert, MASKED, {"tie_word_embeddings": False}),
    "bert, relu": (tiny.write_bert, VECTORS, {"hidden_act": "relu"}),
    "roberta": (tiny.write_roberta, MASKED, {}),
    "distilbert": (tiny.write_distilbert, MASKED, {}),
    "mpnet": (tiny.write_mpnet, MASKED, {}),
    "electra, narrow": (tiny.write_electra, MASKED, {}),
    "albert": (tiny.write_albert, CLASSES, TWICE),
    "albert, groups": (tiny.write_albert, VECTORS, {"num_hidden_layers": 2, "inner_group_num": 1}),
    "albert, tied": (tiny.write_albert, MASKED, TWICE),
    "albert, tokens": (tiny.write_albert, "token-classification", TWICE),
    "albert, spans": (tiny.write_albert, "question-answering", {**TWICE, "hidden_act": "gelu"}),
    "modernbert": (tiny_more.write_modernbert, VECTORS, {}),
    "modernbert, tied": (tiny_more.write_modernbert, MASKED, {}),
    "deberta, tied": (tiny_more.write_deberta, MASKED, {}),
    "deberta, own positions": (tiny_more.write_deberta, VECTORS, tiny_more.UNSHARED),
}
FUSED = ("bert, tied", "albert, tied", "electra, narrow")  # and optimized


@pytest.fixture(scope="module", params=FAMILIES)
def bundle(request, tmp_path_factory):
    write, task, changes = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("encoder")
    source = write(folder / "source", task=task, seed=1, edit=uneven, **changes)
    made = export(open_checkpoint(str(source)), folder / "float", task=task, verify=False)
    return optimize(made, folder / "fused") if request.param in FUSED else made


class Encoder:
    """A bundle's graph, what flows in it on some texts, and its outputs on others."""

    def __init__(self, bundle):
        self.graph = bundle.manifest.graphs["model"]
        self.source = bundle.file(self.graph.file)
        texts = fit(parity_sentences()[:64], bundle.manifest)
        self.layers = find_layers(load_graph(self.source))
        values = {layer.value for layer in self.layers}
        self.seen = observe(bundle, values, texts[1::2], progress=silent)
        session = Session(self.source, self.graph, SessionConfig())
        self.batches = text_batches(bundle, session, texts[::2])
        self.wanted = self.outputs(self.source)
        self.rounded = {}

    def integers(self, target, granularity, kept=()):
        write_int8(
            self.source,
            target,
            target.name,
            granularity=granularity,
            layers=[layer.name for layer in self.layers if layer.name not in kept],
            optimized=self.graph.optimized,
            calibration=self.seen,
        )
        return self.outputs(target, optimized=self.graph.optimized)

    def bound(self, folder, granularity):
        """Return what rounding alone gives."""
        if granularity not in self.rounded:
            path = folder / "rounded.onnx"
            write_rounded(self.source, path, whole=granularity is Granularity.TENSOR)
            self.rounded[granularity] = self.outputs(path)
        return self.rounded[granularity]

    def outputs(self, path, *, optimized=True):
        spec = graph_spec(load_graph(path), path.name, optimized=optimized)
        session = Session(path, spec, SessionConfig())
        return np.concatenate(
            [
                _of_tokens(array, batch.inputs["attention_mask"].astype(bool)).ravel()
                for batch in self.batches
                for array in session.run(batch.inputs).values()
            ]
        )


def _of_tokens(array, mask):
    return array[mask] if array.shape[:2] == mask.shape else array


@pytest.fixture(scope="module")
def encoder(bundle):
    return Encoder(bundle)


# By rows factors and corrected biases win something back; for a tensor there are no factors.
MOST = {Granularity.ROW: 1.0, Granularity.TENSOR: 1.2}


@pytest.mark.parametrize("granularity", Granularity)
def test_integers_lose_what_rounding_alone_does(encoder, granularity, tmp_path):
    made = encoder.integers(tmp_path / "made.onnx", granularity)
    bound = encoder.bound(tmp_path, granularity)
    assert is_close(encoder.wanted, made, bound, MOST[granularity])


def test_layers_that_are_kept_leave_the_others_right(encoder, tmp_path):
    kept = {layer.name for layer in encoder.layers[::2]}
    made = encoder.integers(tmp_path / "made.onnx", Granularity.ROW, kept)
    assert is_close(encoder.wanted, made, encoder.bound(tmp_path, Granularity.ROW), 1.0)
