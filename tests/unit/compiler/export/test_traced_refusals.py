"""What optimum would trace as another function is refused before it is traced."""

import json

import pytest

from lmonnx.bundle.manifest import Task
from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import traced
from lmonnx.errors import UnsupportedError
from tests import tiny

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("architecture", ["big_bird", "bigbird_pegasus"])
@pytest.mark.parametrize("stated", [{}, {"attention_type": "block_sparse"}])
def test_block_sparse_attention_is_refused(tmp_path, monkeypatch, architecture, stated):
    monkeypatch.setattr(traced, "is_installed", lambda: True)  # it is never asked
    source = tiny.write_bert(tmp_path / "source")
    fields = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(fields | {"model_type": architecture} | stated))
    checkpoint = open_checkpoint(str(source))
    with (
        pytest.raises(UnsupportedError, match=f"{architecture} with full attention"),
        traced.traced_folder(checkpoint, Task.TEXT_CLASSIFICATION),
    ):
        pass
