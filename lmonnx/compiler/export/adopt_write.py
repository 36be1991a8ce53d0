"""An adopted graph → the same with onnxruntime's fusions done, as the stages after expect it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from lmonnx.compiler.edits import drop_dead
from lmonnx.compiler.export.adopt_products import split_products
from lmonnx.compiler.graph import load_graph, save_graph
from lmonnx.runtime.session import save_optimized


@contextmanager
def fused(
    model: onnx.ModelProto, source: Path, near: Path
) -> Iterator[tuple[onnx.ModelProto, Path]]:
    """Give a graph with onnxruntime's fusions done, and the folder that its weights are in.

    Args:
        model: The graph.
        source: What its external weights are in.
        near: The folder in which there is room for a copy, which is removed in the end.

    Raises:
        BundleError: onnxruntime cannot load it.
    """
    with tempfile.TemporaryDirectory(prefix=".adopted-", dir=near) as folder:
        plain, optimized = Path(folder) / "plain.onnx", Path(folder) / "fused.onnx"
        save_graph(model, source, plain, plain.name)
        save_optimized(plain, optimized)
        made = load_graph(optimized)
        made.ir_version = model.ir_version
        split_products(made.graph, optimized.parent)
        drop_dead(made.graph)
        used = {node.domain for node in made.graph.node} | {""}
        kept = [opset for opset in made.opset_import if opset.domain in used]
        del made.opset_import[:]
        made.opset_import.extend(kept)
        yield made, optimized.parent
