"""A completion ends by an id, a text or its length, and shows nothing of a stop text."""

import pytest

from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.stopping import Stopping, ids_that_stop


def run(pieces, tail="", stop_ids=(0,), **options):
    """Push pieces, a stop id for None; return what each step showed and the reason."""
    stopping = Stopping(SamplingParams(**options), stop_ids=stop_ids)
    shown = []
    for piece in pieces:
        shown.append(stopping.push(0 if piece is None else 1, piece or ""))
        if stopping.finish_reason:
            break
    shown[-1] += stopping.finish(tail)
    return shown, stopping.finish_reason


def test_a_stop_id_ends_without_a_stop_text():
    assert run(["a", "b", None, "c"]) == (["a", "b", ""], "stop")


def test_the_length_ends_what_nothing_else_does():
    assert run(["a", "b", "c"], max_new_tokens=2) == (["a", "b"], "length")
    assert run(["a", None], max_new_tokens=2)[1] == "stop"


def test_a_stop_text_and_what_follows_are_not_shown():
    assert run(["one ", "two STOP three"], stop="STOP") == (["one ", "two "], "stop")


def test_a_stop_text_is_found_across_tokens_and_never_half_shown():
    assert run(["x", "a", "b", "c", "d"], stop="abcd") == (["x", "", "", "", ""], "stop")
    assert run(["x", "a", "b", "z", "y", None], stop="abcd")[0] == ["x", "", "", "abz", "y", ""]


def test_what_is_held_back_is_shown_at_the_end():
    assert run(["xa", "b"], max_new_tokens=2, stop="abc") == (["x", "ab"], "length")


def test_the_last_text_may_still_hold_a_stop_text():
    assert run(["xa", "b"], tail="c", max_new_tokens=2, stop="abc") == (["x", ""], "stop")


def test_the_stop_text_that_ends_first_counts():
    for pieces in (["xabcd"], ["xa", "bc", "d"]):
        shown, _ = run(pieces, stop=["abcd", "bc"])
        assert "".join(shown) == "xa"


def test_a_stop_text_counts_before_the_minimum_too():
    assert run(["STOP"], stop="STOP", min_new_tokens=5) == ([""], "stop")


@pytest.mark.parametrize(("ignored", "expected"), [(False, (2, 3, 9)), (True, (9,))])
def test_the_ids_that_stop(ignored, expected):
    assert ids_that_stop(SamplingParams(ignore_eos=ignored, stop_ids=[9]), [2, 3]) == expected
    assert ids_that_stop(SamplingParams(stop_ids=[2]), [2, 3]) == (2, 3)
