"""An encoder-decoder and a map → the files of a bundle that decodes by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Manifest, ShortlistSpec
from lmonnx.compiler.graph import Known, load_graph, save_graph
from lmonnx.compiler.shortlist.head import write_listed
from lmonnx.compiler.stage import SEQ2SEQ_FILES, copy_text, finish
from lmonnx.errors import StageError
from lmonnx.runtime.generate.shortlist import NUMBERS, Shortlist

FILE = "shortlist.bin"


def write_listed_pair(bundle: Bundle, draft: Draft, made: Shortlist) -> Manifest:
    """Write both graphs, what they have in common once, and the map; return the sealed manifest.

    Raises:
        StageError: It is no encoder-decoder, or its head has a form that lmonnx does not write.
    """
    generation, graphs = bundle.manifest.generation, bundle.manifest.graphs
    if generation is None or generation.seq2seq is None:
        raise StageError(f"{bundle.path} is no encoder-decoder; only these have a shortlist")
    copy_text(draft, bundle)
    known: Known = {}
    encoder, decoder = (bundle.file(graphs[role].file) for role in ("encoder", "decoder"))
    first, second = (SEQ2SEQ_FILES[role] for role in ("encoder", "decoder"))
    is_optimized = graphs["encoder"].optimized
    specs = {
        "encoder": save_graph(
            load_graph(encoder),
            encoder.parent,
            draft.file(first),
            first,
            optimized=is_optimized,
            known=known,
        ),
        "decoder": write_listed(
            decoder, draft.file(second), second, generation.vocabulary, known=known
        ),
    }
    seq2seq = replace(generation.seq2seq, shortlist=write_shortlist(made, draft.file(FILE), FILE))
    manifest = bundle.manifest.replace_graphs(specs)
    return finish(draft, replace(manifest, generation=replace(generation, seq2seq=seq2seq)))


def write_shortlist(made: Shortlist, path: Path, file: str) -> ShortlistSpec:
    """Write a map as the runtime reads it; return what the manifest says of it."""
    parts = (made.always, made.starts, made.allowed)
    np.concatenate(parts).astype(NUMBERS).tofile(path)
    return ShortlistSpec(file, len(made.always), len(made.starts) - 1)
