"""What a decoder says after the last token of a text: what parity of decoders compares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError
from lmonnx.measure.decisions import RawModel
from lmonnx.measure.perplexity import window_inputs
from lmonnx.runtime.pipelines import PIPELINES
from lmonnx.runtime.session import Session, SessionConfig
from lmonnx.runtime.tokenizer import Long, Text, Tokenizer


def raw_models(bundle: Bundle) -> list[RawModel]:
    """Load a bundle as its raw outputs are compared: its pipeline, or each graph of a decoder."""
    manifest = bundle.manifest
    if manifest.generation is None:
        return [PIPELINES[manifest.task](bundle)]
    return [NextLogits(bundle, role=role) for role in sorted(manifest.graphs)]


class NextLogits:
    """A decoder's graph over whole texts, one at a time and with nothing before them."""

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, role: str = "model"
    ) -> None:
        generation, text = bundle.manifest.generation, bundle.manifest.text
        if generation is None:
            raise BundleError(f"{bundle.path} says nothing of generation; export it again")
        graph = bundle.manifest.graphs[role]
        self.bundle = bundle
        self._cache = generation.cache
        self._tokenizer = Tokenizer(bundle.file(text.source.file), text)
        self._session = Session(bundle.file(graph.file), graph, config or SessionConfig())

    def raw(
        self, texts: Iterable[Text], *, long: Long | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of what comes after each text, (1, V); of a text of no tokens, none.

        Text over the context is cut, whatever `long` says: a decoder has no windows.
        """
        del long
        keep = {"logits_to_keep": np.array(1, np.int64)}
        for encoding in self._tokenizer.encode(list(texts), Long.TRUNCATE):
            if not encoding.ids:
                yield np.empty((0, 0), np.float32)
                continue
            inputs = window_inputs(np.array(encoding.ids, np.int64), self._cache)
            yield self._session.run({**inputs, **keep})["logits"][0]
