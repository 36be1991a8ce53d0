"""A manifest as plain data."""

import json

from lmonnx.bundle.bundle import Bundle
from lmonnx.measure.contents import contents


def test_contents_are_json_with_sums(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    plain = json.loads(json.dumps(contents(bundle.manifest)))
    graph = plain["graphs"]["model"]
    assert plain["bytes"] == bundle.bytes == sum(plain["files"].values())
    assert graph["nodes"] == sum(graph["operators"].values())
    assert plain["history"][0]["stage"] == "export"
