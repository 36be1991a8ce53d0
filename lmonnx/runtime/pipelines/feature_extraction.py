"""Text → vectors, as sentence-transformers' `encode` gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import EmbeddingSpec, Pooling, Side
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.dense import open_layer, width_after
from lmonnx.runtime.pipelines.base import Outputs, Pipeline, Window, as_plain
from lmonnx.runtime.pipelines.vector_request import (
    SPREAD,
    Request,
    cut_of,
    listed,
    packing_of,
    prompt_of,
    rule_of,
    switch_of,
)
from lmonnx.runtime.pooling import SIMILARITIES, Packing, Vectors, normalize, pack, pool
from lmonnx.runtime.session import SessionConfig
from lmonnx.runtime.tokenizer import Long, Text

TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
TEXT_OUTPUTS = ("sentence_embedding",)


class Embedder(Pipeline[Vectors]):
    """One vector a text; one instance serves any number of threads.

    A text that is too long is cut, as sentence-transformers cuts it. With long="window" every
    window is pooled, and a text's vector is the mean of its windows' weighted by their tokens,
    taken before the dense layers and the normalization; the windows after the first do not see
    the prompt.
    """

    OUTPUTS = ()  # which of several it is depends on the graph
    LONG = Long.TRUNCATE

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        spec = bundle.manifest.embedding
        if spec is None:
            raise BundleError(f"{bundle.path} has no embedding; export it as feature-extraction")
        super().__init__(bundle, config, long=long)
        if "attention_mask" not in self.session.inputs:
            raise BundleError(f"{bundle.path}: the graph takes no attention_mask; export it again")
        rule_of(None, self._long)
        self.spec: EmbeddingSpec = spec
        self._output, width = _output(bundle, spec)
        self._layers = [open_layer(bundle.file(dense.file), dense) for dense in spec.dense]
        self._width = width_after(self._layers, width, str(bundle.path))
        if not 1 <= spec.dimension <= self._width:
            raise BundleError(
                f"{bundle.path}: the manifest states {spec.dimension} dimensions, "
                f"the model gives {self._width}; export it again"
            )

    def __call__(
        self,
        texts: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        precision: Packing | str = "float32",
        ranges: Vectors | None = None,
        normalize: bool | None = None,
        long: Long | str | None = None,
    ) -> NDArray[Any]:
        """Return (E,) for a text, (N, E) for several, in their order.

        Args:
            texts: A text, or texts.
            prompt: Stands before every text; "" is none, where the model has a default.
            prompt_name: One of the model's own prompts.
            dimensions: Keep so many (Matryoshka). As in sentence-transformers the model's own
                normalization is done before the cut and not again: pass normalize=True for that.
            precision: "float32", "int8", "uint8", "binary" or "ubinary"; the last two give a bit a
                dimension, eight a number.
            ranges: (2, E), the least and greatest value of each dimension, for int8 and uint8;
                None takes them from these texts' vectors, which suits only many at once.
            normalize: True makes the length 1 after the cut, False leaves the model's own
                normalization out, None does as the model does.
            long: "truncate", "window" or "error"; None is what `load` was told.

        Raises:
            InputError: A text is no text, too long with "error", or an option is wrong.
        """
        request = self._request(prompt, prompt_name, dimensions, long, normal=normalize)
        packing = packing_of(precision, ranges, request.dimensions)
        chosen = listed(texts)
        if packing in SPREAD and ranges is None and len(chosen) == 1:
            raise InputError(
                f"{packing} of one text says nothing without ranges: pass ranges=(2, E), the least "
                "and greatest value of each dimension, or more texts"
            )
        vectors = np.empty((len(chosen), request.dimensions), np.float32)
        for place, vector in enumerate(self._vectors(chosen, request)):
            vectors[place] = vector
        packed = pack(vectors, packing, ranges)
        return packed[0] if isinstance(texts, str) else packed

    def stream(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        precision: Packing | str = "float32",
        ranges: Vectors | None = None,
        normalize: bool | None = None,
        long: Long | str | None = None,
    ) -> Iterator[NDArray[Any]]:
        """Yield one vector a text, of input that may be endless, in its order and bounded memory.

        Options are those of a call; int8 and uint8 need `ranges`.
        """
        if isinstance(texts, str):
            raise InputError("a stream is of texts, and this is one; call the model with it")
        request = self._request(prompt, prompt_name, dimensions, long, normal=normalize)
        packing = packing_of(precision, ranges, request.dimensions)
        if packing in SPREAD and ranges is None:
            raise InputError(f"a stream of {packing} needs ranges=(2, E); `embed(texts)` does not")
        vectors = self._vectors(texts, request)
        return (pack(vector[None], packing, ranges)[0] for vector in vectors)

    def token_embeddings(self, texts: str | Iterable[str]) -> list[Vectors]:
        """Return each text's token vectors, (tokens, E), special tokens too, without a prompt.

        That is what transformers' feature-extraction pipeline gives. Long text is cut.
        """
        if self._output not in TOKEN_OUTPUTS:
            raise InputError("the graph gives no vectors of tokens; export the checkpoint again")
        rule = Long.ERROR if self._long is Long.ERROR else Long.TRUNCATE

        def reduce(outputs: Outputs, batch: Batch) -> list[Vectors]:
            hidden = self._checked(outputs, batch)
            kept = batch.inputs["attention_mask"].astype(bool)
            return [row[mask].astype(np.float32) for row, mask in zip(hidden, kept, strict=True)]

        prepared = map(self._prepare, listed(texts))
        return [windows[0].row for windows in self.windows(prepared, long=rule, reduce=reduce)]

    def similarity(
        self, a: str | Iterable[str] | NDArray[Any], b: str | Iterable[str] | NDArray[Any]
    ) -> Vectors:
        """Return (N, M): how near each of `a` is to each of `b`, by the model's own function.

        Both may be vectors or texts, which are embedded; distances are negated.
        """
        first, second = self._as_vectors(a), self._as_vectors(b)
        if first.shape[1] != second.shape[1]:
            raise InputError(
                f"vectors of {first.shape[1]} and of {second.shape[1]} dimensions are not compared;"
                " cut both to the same"
            )
        return SIMILARITIES[self.spec.similarity](first, second)

    def raw(
        self, texts: Iterable[Text], *, long: Long | str | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield each text's vector, (1, E), as the model gives it: uncut, without a prompt."""
        request = Request(rule_of(long, self._long), "", 0, self._width, None)
        for vector in self._vectors(texts, request):
            yield vector[None]

    def reduce(self, outputs: Outputs, batch: Batch) -> Sequence[Vectors]:
        pooled = self._pool(outputs, batch, 0)
        return self._finish(pooled, self._width)  # type: ignore[return-value]

    def _vectors(self, texts: Iterable[Text], request: Request) -> Iterator[Vectors]:
        windowed = request.long is Long.WINDOW
        begins = 0 if self._spec.truncation_side is Side.RIGHT else -1

        def reduce(outputs: Outputs, batch: Batch) -> Any:
            pooled = self._pool(outputs, batch, request.skipped)
            if windowed:  # with the prompt left out, which the window that begins the text has
                whole = self._pool(outputs, batch, 0) if request.skipped else pooled
                return list(zip(pooled, whole, strict=True))
            return self._finish(pooled, request.dimensions, normal=request.normalize)

        prepared = (self._prepare(text, request.prompt) for text in texts)
        for windows in self.windows(prepared, long=request.long, reduce=reduce):
            if windowed:
                merged = _merge(windows, begins)[None]
                yield self._finish(merged, request.dimensions, normal=request.normalize)[0]
            else:
                yield windows[0].row

    def _prepare(self, text: object, prompt: str = "") -> str:
        whole = prompt + as_plain(text)
        return lower(whole) if self.spec.lower_case else whole

    def _checked(self, outputs: Outputs, batch: Batch) -> NDArray[Any]:
        """Return the output that is pooled: (B, S, E), or (B, E) where nothing is to be pooled."""
        values = outputs[self._output]
        mask = batch.inputs["attention_mask"]
        shape = mask.shape if self._output in TOKEN_OUTPUTS else mask.shape[:1]
        if values.shape[:-1] != shape or values.dtype.kind != "f":
            raise BundleError(
                f"{self.bundle.path}: the graph gives {self._output} of {values.dtype} "
                f"{values.shape} for ids of {mask.shape}; export it again"
            )
        return values

    def _pool(self, outputs: Outputs, batch: Batch, skipped: int) -> Vectors:
        values, mask = self._checked(outputs, batch), batch.inputs["attention_mask"]
        if self._output in TEXT_OUTPUTS:
            return values.astype(np.float32)
        parts = [pool(values, mask, mode, skipped=skipped) for mode in self.spec.pooling]
        return np.concatenate(parts, axis=1)

    def _finish(self, vectors: Vectors, dimensions: int, *, normal: bool | None = None) -> Vectors:
        """Return pooled vectors after the dense layers, the norm and the cut."""
        for layer in self._layers:
            vectors = layer(vectors)
        if vectors.shape[1] != self._width:
            raise BundleError(
                f"{self.bundle.path}: the graph gives vectors of {vectors.shape[1]}, the manifest "
                f"states {self._width}; export it again"
            )
        if self.spec.normalize and normal is None:
            vectors = normalize(vectors)
        cut = vectors[:, :dimensions]
        return normalize(cut) if normal else cut

    def _request(
        self,
        prompt: str | None,
        prompt_name: str | None,
        dimensions: int | None,
        long: Long | str | None,
        *,
        normal: bool | None,
    ) -> Request:
        cut = cut_of(self.spec.dimension if dimensions is None else dimensions, self._width)
        text = prompt_of(self.spec, prompt, prompt_name)
        skipped = self._prompt_size(text) if text and not self.spec.include_prompt else 0
        return Request(rule_of(long, self._long), text, skipped, cut, switch_of(normal))

    def _prompt_size(self, prompt: str) -> int:
        """Return how many tokens a prompt alone has, less a special one at its end."""
        ids = self.tokenizer.encode([self._prepare(prompt)], Long.TRUNCATE)[0].ids
        decode = self.tokenizer.decode
        special = bool(ids) and decode(ids[-1:]) != decode(ids[-1:], skip_special=True)
        return len(ids) - special

    def _as_vectors(self, values: str | Iterable[str] | NDArray[Any]) -> Vectors:
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
            if values.ndim not in (1, 2):
                raise InputError(f"vectors are of the shape {values.shape}, must be (N, E) or (E,)")
            return np.atleast_2d(values).astype(np.float32)
        return np.atleast_2d(self(values))


def lower(text: str) -> str:
    """Return a text in small letters, each character for itself, as tokenizers' Lowercase does."""
    # Python alone knows another small sigma for the end of a word.
    return "".join(map(str.lower, text)) if "Σ" in text else text.lower()


def _merge(windows: list[Window[Any]], begins: int) -> Vectors:
    """Return the mean of windows' pooled vectors, weighted by their tokens: (windows, E) → (E,).

    A row is the vector without the prompt and that of every token; `begins` has the prompt.
    """
    weights = np.array([len(window.encoding.ids) for window in windows], np.float32)
    stacked = np.stack([window.row[1] for window in windows])
    stacked[begins] = windows[begins].row[0]
    return np.asarray(weights / weights.sum() @ stacked, np.float32)


def _output(bundle: Bundle, spec: EmbeddingSpec) -> tuple[str, int]:
    """Return which output is pooled, and how wide the pooled vectors are."""
    names = TEXT_OUTPUTS if spec.pooling == (Pooling.NONE,) else TOKEN_OUTPUTS
    given = {output.name: output for output in bundle.manifest.graphs["model"].outputs}
    found = next((given[name] for name in names if name in given), None)
    if found is None or not spec.pooling or Pooling.NONE in spec.pooling[1:]:
        raise BundleError(
            f"{bundle.path}: the graph gives {', '.join(given)}, to be pooled by "
            f"{', '.join(spec.pooling) or 'nothing'}; export it again"
        )
    last = found.shape[-1] if found.shape else 0
    return found.name, last * len(spec.pooling) if isinstance(last, int) else spec.dimension
