"""A manifest → what is in the bundle and how it was made, as plain data."""

from __future__ import annotations

from typing import Any

from lmonnx.bundle.fields import encode
from lmonnx.bundle.manifest import Manifest


def contents(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest as JSON types, with the sums that a reader would make.

    The keys are the manifest's own, without the hashes: `files` is name → bytes, and `bytes` is
    their sum; every graph also has `nodes`, the number of its operators.
    """
    plain: dict[str, Any] = encode(manifest)
    plain["files"] = {name: info.bytes for name, info in (manifest.files or {}).items()}
    plain["bytes"] = sum(plain["files"].values())
    for graph in plain["graphs"].values():
        graph["nodes"] = sum(graph["operators"].values())
    return plain
