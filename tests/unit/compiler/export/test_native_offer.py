"""A refused graph names the native engine only where that builds the architecture."""

import pytest

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export.native_offer import native_offered
from lmonnx.errors import ParityError, UnsupportedError
from tests import tiny

pytestmark = pytest.mark.compiler

REFUSED = "the graphs do not run"


@pytest.mark.parametrize("kind", [UnsupportedError, ParityError])
@pytest.mark.parametrize(
    ("architecture", "offered"),
    [
        ("bart", " (--engine native builds bart from its checkpoint)"),
        ("llama", " (--engine native builds llama from its checkpoint)"),
        ("longt5", ""),
    ],
)
def test_only_what_is_built_here_is_offered(tmp_path, kind, architecture, offered):
    tiny.write_json(tmp_path / "config.json", {"model_type": architecture})
    with pytest.raises(kind) as raised, native_offered(open_checkpoint(str(tmp_path))):
        raise kind(REFUSED)
    assert str(raised.value) == f"{REFUSED}{offered}"
