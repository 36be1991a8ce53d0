"""Batches a thread each: the same answers, a session made when needed, errors that arrive."""

from threading import Barrier, current_thread

import numpy as np
import pytest

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError
from lmonnx.runtime.pipelines.text_classification import TextClassifier
from lmonnx.runtime.session import BULK_TOKENS, CPU, SessionConfig
from lmonnx.runtime.side_by_side import SideBySide

TEXTS = ["a film", "a good film, and long, " * 9, "bad"] * 400  # more than two threads' BULK_TOKENS


def classifier(bundle, threads=2, **options):
    return TextClassifier(Bundle.open(bundle), SessionConfig(threads=threads, **options))


@pytest.mark.parametrize("threads", [2, 3])
def test_side_by_side_answers_are_those_of_one_session_in_the_order_of_the_texts(
    tiny_bundle, threads
):
    one = classifier(tiny_bundle, thread_per_batch=False)
    many = classifier(tiny_bundle, threads, thread_per_batch=True)
    np.testing.assert_allclose(many.logits(TEXTS), one.logits(TEXTS), atol=1e-5)


def test_a_small_request_makes_no_second_session(tiny_bundle):
    model = classifier(tiny_bundle)
    model(TEXTS[:9])
    assert model._side_by_side._session is None
    model(TEXTS)
    assert model._side_by_side._session is not None


def test_batches_run_at_the_same_time():
    met = Barrier(2, timeout=20)
    threads = set()

    def work(session, batch):
        met.wait()  # breaks unless two are here at once
        threads.add(current_thread().name)

    SideBySide(lambda: None, 2).run(iter(range(8)), work)
    assert len(threads) == 2


def test_the_first_error_arrives_and_ends_the_rest():
    done = []

    def work(session, batch):
        done.append(batch)
        if batch == 1:
            raise BundleError("no")

    with pytest.raises(BundleError, match="no"):
        SideBySide(lambda: None, 2).run(iter(range(10**6)), work)
    assert len(done) < 10**5


@pytest.mark.parametrize(
    ("config", "bundle_bytes", "expected"),
    [
        (SessionConfig(threads=2), 2**20, True),
        (SessionConfig(threads=2), 2**30, False),  # a second copy is not taken unasked
        (SessionConfig(threads=2, thread_per_batch=True), 2**30, True),
        (SessionConfig(threads=2, thread_per_batch=False), 2**20, False),
        (SessionConfig(threads=1, thread_per_batch=True), 2**20, False),
        (SessionConfig(("CUDAExecutionProvider", CPU), threads=2), 2**20, False),
    ],
)
def test_who_runs_side_by_side(config, bundle_bytes, expected):
    assert config.runs_side_by_side(bundle_bytes) is expected


def test_the_texts_of_this_file_are_a_large_request(tiny_bundle):
    encodings = classifier(tiny_bundle).tokenizer.encode(TEXTS)
    assert sum(len(encoding.ids) for encoding in encodings) > 3 * BULK_TOKENS
