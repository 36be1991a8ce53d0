"""What is said where transformers itself fails on a checkpoint."""

import pytest

from lmonnx.compiler.reference import reference_runs
from lmonnx.errors import StageError

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize(
    ("error", "said"),
    [(IndexError("index -1\nof 0"), "IndexError: index -1"), (RuntimeError(), "RuntimeError: ")],
    ids=["lines", "silent"],
)
def test_the_reference_is_named_as_what_fails(error, said):
    with pytest.raises(StageError) as raised, reference_runs("a/model"):
        raise error
    assert f"transformers itself fails on a/model ({said})" in str(raised.value)
    assert "export with --no-verify" in str(raised.value)
    assert raised.value.__cause__ is error
