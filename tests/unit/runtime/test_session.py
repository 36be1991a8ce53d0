"""What is asked of onnxruntime is there, or it is an error; never a silent fallback."""

import json
from dataclasses import replace

import numpy as np
import pytest

import lmonnx
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import TensorSpec, checksum_of
from lmonnx.errors import BundleError, InputError, UnsupportedError
from lmonnx.runtime import session as sessions
from lmonnx.runtime.session import CPU, Session, SessionConfig

ABSENT = "ROCMExecutionProvider"


@pytest.fixture
def opened(tiny_bundle) -> tuple:
    bundle = Bundle.open(tiny_bundle, verify=False)
    graph = bundle.manifest.graphs["model"]
    return bundle.file(graph.file), graph


def inputs(rows: int = 1, length: int = 3) -> dict[str, np.ndarray]:
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: np.ones((rows, length), np.int64) for name in names}


@pytest.mark.parametrize("providers", [(ABSENT,), (ABSENT, CPU), (CPU, ABSENT)])
def test_a_provider_that_is_missing_is_an_error_that_lists_what_is_there(tiny_bundle, providers):
    with pytest.raises(UnsupportedError, match=f"{ABSENT} is not in this onnxruntime.*{CPU}"):
        lmonnx.load(tiny_bundle, providers=providers)


def test_missing_cuda_says_which_extra_brings_it(tiny_bundle):
    if "CUDAExecutionProvider" in sessions.available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UnsupportedError, match=r"pip install 'lmonnx\[gpu\]'"):
        lmonnx.load(tiny_bundle, providers="CUDAExecutionProvider")


def test_a_provider_that_does_not_start_is_an_error(opened, monkeypatch):
    monkeypatch.setattr(sessions, "available_providers", lambda: (CPU, ABSENT))
    made = sessions.ort.InferenceSession
    monkeypatch.setattr(sessions.ort, "InferenceSession", lambda *a, **_: made(*a, providers=[CPU]))
    with pytest.raises(UnsupportedError, match=f"{ABSENT} is installed but did not start"):
        Session(*opened, SessionConfig(providers=(ABSENT,)))


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 100_000])
def test_threads_that_are_no_number_above_0_are_refused(tiny_bundle, threads):
    with pytest.raises(InputError, match=r"threads is .*, must be a whole number from 1 to 512"):
        lmonnx.load(tiny_bundle, threads=threads)


def test_no_providers_at_all_are_refused():
    with pytest.raises(InputError, match="providers is empty"):
        SessionConfig(providers=())


@pytest.mark.parametrize("threads", [1, 2, None])
def test_a_session_gives_the_named_outputs(opened, threads):
    found = Session(*opened, SessionConfig(threads=threads)).run(inputs(2))
    assert found.keys() == {"logits"}
    assert found["logits"].shape == (2, 2)


@pytest.mark.parametrize("slot", ["inputs", "outputs"])
def test_a_graph_with_other_values_than_the_manifest_says_is_refused(opened, slot):
    path, graph = opened
    other = replace(graph, **{slot: (*getattr(graph, slot), TensorSpec("more", "int64", ()))})
    with pytest.raises(BundleError, match="other inputs or outputs than the manifest says"):
        Session(path, other, SessionConfig())


def test_a_graph_that_fails_on_its_inputs_is_one_line(opened):
    session = Session(*opened, SessionConfig())
    for wrong in (inputs(1, 65), {"input_ids": np.ones((1, 1), np.int64)}, inputs() | {"x": 1}):
        with pytest.raises(BundleError, match=r"model\.onnx fails") as caught:
            session.run(wrong)
        assert "\n" not in str(caught.value)
    out_of_range = inputs() | {"input_ids": np.full((1, 3), 10**6)}
    with pytest.raises(BundleError, match="fails"):
        session.run(out_of_range)


def test_bound_outputs_equal_those_of_a_plain_run(opened):
    # The path of CUDA, run here on the CPU.
    session = Session(*opened, SessionConfig(threads=1))
    plain = session.run(inputs(3))["logits"]
    session._on_device = True
    np.testing.assert_array_equal(session.run(inputs(3))["logits"], plain)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("head"), "has no labels"),
        (lambda m: m["head"].update(labels=[]), "has no labels"),
        (lambda m: m["graphs"].update(other=m["graphs"].pop("model")), "no graph called model"),
        (lambda m: m["graphs"]["model"].update(outputs=[]), "gives no logits"),
        (lambda m: m["head"]["labels"].append("third"), r"of the shape \(2,\), .* names 3 labels"),
        (lambda m: m["text"].update(max_length=3), "leaves no room"),
        (lambda m: m["text"].update(max_length=2**40), "fails"),
        (lambda m: m["text"]["source"].update(pad_id=2**62), "fails"),
        (lambda m: m["text"]["source"].update(pad_id=2**64), "more than 64 bits"),
    ],
)
def test_a_manifest_that_does_not_fit_its_graph_is_one_line(copied_bundle, change, said):
    path = copied_bundle / "lmonnx.json"
    stored = json.loads(path.read_text())
    change(stored)
    stored["checksum"] = checksum_of(stored)
    path.write_text(json.dumps(stored))
    with pytest.raises(BundleError, match=said) as caught:
        lmonnx.load(copied_bundle)(["a", "good film " * 100])
    assert "\n" not in str(caught.value)
