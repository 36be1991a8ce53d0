"""Bundle → same answers from fewer nodes: onnxruntime's own fusions, done once and counted."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import draft_at
from lmonnx.bundle.manifest import GraphSpec, Parity
from lmonnx.compiler.graph import count_operators, load_graph, save_graph
from lmonnx.compiler.optimize.attention import count_attentions, loose_scales
from lmonnx.compiler.optimize.decoder import check_decoder
from lmonnx.compiler.optimize.fusions import check_fusions, fused_counts
from lmonnx.compiler.optimize.keys import keep_keys_in_rows
from lmonnx.compiler.optimize.scales import take_in_scales
from lmonnx.compiler.optimize.sizes import fix_sizes
from lmonnx.compiler.stage import CARD, MODEL_FILE, copy_text, finish, make_step
from lmonnx.errors import StageError
from lmonnx.measure.decisions import answer_all, decision_of
from lmonnx.measure.parity import Golden, measure_parity, require_parity
from lmonnx.measure.sentences import fit, parity_sentences
from lmonnx.measure.speed import load_ms
from lmonnx.runtime.pipelines import PIPELINES
from lmonnx.runtime.session import save_optimized
from lmonnx.runtime.tokenizer import Long


def optimize(bundle: Bundle, target: Path, *, force: bool = False) -> Bundle:
    """Fuse a bundle's graph and hold the result to the input's answers.

    Sizes that a traced graph reads off its values, though its weights fix them, are made constants
    first, so that scales computed of them are fused. The manifest's step counts every fused
    operator and gives the load times of both bundles.

    Args:
        bundle: A bundle whose graph is as it was exported. A decoder's, and both of an
            encoder-decoder, are written fused; their operators are counted, and they are taken over
            as they are.
        target: The new bundle's folder.
        force: Replace a bundle that is there.

    Raises:
        StageError: The graph is optimized already, or a fusion that its operators must give
            did not happen; such a bundle can be run and quantized as it is.
        ParityError: The fused graph answers differently.
    """
    if bundle.manifest.generation is not None:
        return _take_over(bundle, target, force=force)
    graph = bundle.manifest.graphs["model"]
    if graph.optimized:
        raise StageError(f"{bundle.path} is optimized already; quantize it, or use it as it is")
    with draft_at(target, source=bundle.path, force=force) as draft:
        copy_text(draft, bundle)
        spec = _fuse(bundle, graph, draft.file(MODEL_FILE))
        manifest = bundle.manifest.replace_graph(spec)
        finish(draft, manifest)
        made = Bundle.open(draft.path, verify=False)
        parity = _parity(bundle, made)
        metrics = {
            "fused": fused_counts(spec.operators),
            "nodes": [sum(g.operators.values()) for g in (graph, spec)],
            "load_ms": [round(load_ms(b), 1) for b in (bundle, made)],
        }
        step = make_step("optimize", {}, parity=(parity,), metrics=metrics)
        finish(draft, manifest.with_step(step))
    return Bundle.open(target, verify=False)


def _take_over(bundle: Bundle, target: Path, *, force: bool) -> Bundle:
    """Write a decoder's bundle again, whose graphs were exported fused, once that is counted."""
    fused = check_decoder(bundle.manifest)
    nodes = sum(sum(graph.operators.values()) for graph in bundle.manifest.graphs.values())
    with draft_at(target, source=bundle.path, force=force) as draft:
        draft.copy(bundle, (name for name in bundle.manifest.files or {} if name != CARD))
        metrics = {"fused": fused, "nodes": [nodes, nodes]}
        finish(draft, bundle.manifest.with_step(make_step("optimize", {}, metrics=metrics)))
    return Bundle.open(target, verify=False)


def _parity(bundle: Bundle, made: Bundle) -> Parity:
    manifest = made.manifest
    texts = tuple(fit(parity_sentences(), manifest))
    load = PIPELINES[manifest.task]
    reference = answer_all(load(bundle), texts, long=Long.TRUNCATE)
    parity = measure_parity(load(made), Golden("the input bundle", texts, reference))
    require_parity(parity, manifest.precision, decision_of(manifest))
    return parity


def _fuse(bundle: Bundle, graph: GraphSpec, path: Path) -> GraphSpec:
    with tempfile.TemporaryDirectory(prefix=".fused-", dir=path.parent) as folder:
        source, fused = bundle.file(graph.file), Path(folder) / "fused.onnx"
        plain = load_graph(source)
        attentions = count_attentions(plain)
        if fix_sizes(plain):
            fixed = Path(folder) / "fixed.onnx"
            save_graph(plain, source.parent, fixed, fixed.name)
            source = fixed
        save_optimized(source, fused)
        model = load_graph(fused)
        model.ir_version = plain.ir_version
        take_in_scales(model)
        keep_keys_in_rows(model)
        before = {**graph.operators, "Softmax": attentions}
        check_fusions(before, count_operators(model), loose_scales(model))
        _drop_unused_domains(model)
        return save_graph(model, fused.parent, path, MODEL_FILE, optimized=True)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """Keep the opsets that the nodes use: onnxruntime lists every domain it knows."""
    used = {node.domain for node in model.graph.node} | {""}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
