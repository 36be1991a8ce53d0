"""Texts → texts: an encoder-decoder's tokenizers and engine behind one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import ClassVar

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.generate.capacity import Capacity
from lmonnx.runtime.generate.pair_tokenizer import SourceTokenizer, TargetTokenizer
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.request import Chunk, Completion
from lmonnx.runtime.generate.seq2seq_engines import Seq2SeqEngines
from lmonnx.runtime.generate.stopping import STOP, ids_that_stop
from lmonnx.runtime.pipelines.base import as_plain, check_many, read_ahead
from lmonnx.runtime.pipelines.default_params import check_built, default_params
from lmonnx.runtime.pipelines.joined_answers import joined, required
from lmonnx.runtime.pipelines.languages import codes, make_frame, task_names
from lmonnx.runtime.pipelines.lasting import Lasting
from lmonnx.runtime.pipelines.source_parts import Cutter, Part, Refused, Split, all_read
from lmonnx.runtime.pipelines.spoken import spoken
from lmonnx.runtime.pipelines.text_request import Request, chosen_split, in_ids
from lmonnx.runtime.session import SessionConfig

_BLANK = Completion("", (), STOP, 0, 0)


class TextToText(Lasting):
    """A loaded encoder-decoder; any number of threads may share it.

    `built_defaults` are `defaults` without what the checkpoint asks for and is not built.
    A task says whose prefix and settings are taken unasked, and its rule for long text.
    """

    PREFIX: ClassVar[str | None] = None
    SPLIT: ClassVar[Split] = Split.NONE
    SPLITS: ClassVar[frozenset[Split]] = frozenset(Split)

    def __init__(
        self,
        bundle: Bundle,
        config: SessionConfig | None = None,
        *,
        capacity: Capacity | None = None,
    ) -> None:
        """Load the graphs.

        Raises:
            BundleError: It is no encoder-decoder, or is damaged.
            InputError: The cache does not fit.
        """
        generation = bundle.manifest.generation
        if generation is None or generation.seq2seq is None:
            raise BundleError(f"{bundle.path} is no encoder-decoder; export it again")
        self.bundle, self.generation = bundle, generation
        self.config = config or SessionConfig()
        text = bundle.manifest.text
        self._source = SourceTokenizer(bundle.path, text)
        self._target = TargetTokenizer(bundle.path, text, self._source)
        self._engines = Seq2SeqEngines(bundle, self.config, capacity=capacity or Capacity())
        self.context = self._engines.context
        self.source_limit = self._engines.source_positions
        self._seq2seq = generation.seq2seq
        self.built_defaults = self._built_for(None, None)

    @property
    def defaults(self) -> SamplingParams:
        """How the checkpoint wants to be decoded; `dataclasses.replace` changes it.

        Raises:
            UnsupportedError: It asks for what is not built; `built_defaults` do without.
        """
        return self.defaults_for()

    def defaults_for(
        self, source_lang: str | None = None, target_lang: str | None = None
    ) -> SamplingParams:
        """Return `defaults`, with what the checkpoint states for one pair of languages.

        Raises:
            UnsupportedError: It asks for what is not built.
        """
        check_built(self.generation, self._tasks(source_lang, target_lang))
        return self._built_for(source_lang, target_lang)

    @property
    def languages(self) -> tuple[str, ...]:
        """The codes that `source_lang` and `target_lang` may be; none where it takes none."""
        return codes(self._seq2seq)

    def __call__(
        self,
        texts: str | Iterable[str],
        params: SamplingParams | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        prefix: str | None = None,
        split: Split | str | None = None,
    ) -> list[Completion]:
        """Answer texts, all at once; `params.n` answers of each, in the texts' order.

        A blank text has a blank answer. What was read in several parts has one answer, with the
        tokens of all, and as score the mean of theirs by tokens; the parts' i-th best are joined.

        Args:
            texts: One, or several.
            params: How to decode; None is `defaults`.
            source_lang: The language of the texts, where the model has several.
            target_lang: The language of the answers.
            prefix: What stands before every text; None is the task's own.
            split: What becomes of text before the model reads it, see Split; None is the task's
                own rule.

        Raises:
            InputError: A text or an option is wrong, or a text is too long.
        """
        request = self._request(params, source_lang, target_lang, prefix, split)
        check_many(texts)
        given = [texts] if isinstance(texts, str) else [as_plain(text) for text in texts]
        parts = all_read(self._cut(given, request))
        return list(chain.from_iterable(map(required, self._found(parts, request))))

    def answers(
        self,
        texts: Iterable[str],
        params: SamplingParams | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        prefix: str | None = None,
        split: Split | str | None = None,
    ) -> Iterator[list[Completion]]:
        """Yield the `params.n` answers of each text, best first, of an endless input too.

        Memory is bounded: some thousand texts are read ahead. The arguments are a call's.

        Raises:
            InputError: As for a call; for a text, once those before it are answered.
        """
        found = self.attempts(
            texts, params, source_lang=source_lang, target_lang=target_lang, prefix=prefix,
            split=split,
        )  # fmt: skip
        return map(required, found)

    def attempts(
        self,
        texts: Iterable[str],
        params: SamplingParams | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        prefix: str | None = None,
        split: Split | str | None = None,
    ) -> Iterator[list[Completion] | Refused]:
        """Yield what `answers` does, and in the place of a text that is too long why it has none.

        Raises:
            InputError: An option is wrong, or what should be a text is none.
        """
        request = self._request(params, source_lang, target_lang, prefix, split)
        check_many(texts)
        return self._read([texts] if isinstance(texts, str) else texts, request)

    def stream(
        self,
        text: str,
        params: SamplingParams | None = None,
        *,
        source_lang: str | None = None,
        target_lang: str | None = None,
        prefix: str | None = None,
        split: Split | str | None = None,
    ) -> Iterator[Chunk]:
        """Yield one text's answer as it comes; closing the iterator ends the request.

        Without `params` it is `defaults` with one beam. The other arguments are a call's.

        Raises:
            InputError: As for a call, at once; or there would be several answers or beams.
        """
        if not isinstance(text, str):
            raise InputError(f"{type(text).__name__} is no text; for several there is `answers`")
        if params is None:
            own = self.defaults_for(source_lang, target_lang)
            params = replace(own, num_beams=1, n=1)
        request = self._request(params, source_lang, target_lang, prefix, split)
        if max(params.n, params.num_beams) > 1:
            raise InputError("a stream is of one answer: leave n and num_beams at 1")
        return self._chunks(all_read(self._cut([text], request)), request)

    def close(self) -> None:
        self._engines.close()

    def cut(self, texts: Sequence[str], first: int, split: Split, cutter: Cutter) -> list[Part]:
        """Return the parts of texts that the model reads at once; `first` is the first's row."""
        if split in {Split.NONE, Split.TRUNCATE}:
            return cutter.whole(texts, first, truncate=split is Split.TRUNCATE)
        # An answer that may not be as long as its source would be cut.
        longest = 0 if split is Split.SENTENCES else self.built_defaults.limit
        return cutter.by_sentence(texts, first, longest=longest)

    def _request(
        self,
        params: SamplingParams | None,
        source_lang: str | None,
        target_lang: str | None,
        prefix: str | None,
        split: Split | str | None,
    ) -> Request:
        if params is None:
            params = self.defaults_for(source_lang, target_lang)
        if not isinstance(params, SamplingParams):
            raise InputError(f"params is {type(params).__name__}; give SamplingParams(…)")
        if prefix is not None and not isinstance(prefix, str):
            raise InputError(f"prefix is {type(prefix).__name__}; give a str")
        frame = make_frame(
            self._seq2seq, source_lang=source_lang, target_lang=target_lang, prefix=prefix,
            task=self.PREFIX,
        )  # fmt: skip
        if params.max_new_tokens is None:
            own = self._built_for(source_lang, target_lang)
            params = replace(params, max_new_tokens=own.max_new_tokens)
        if params.limit >= self.context:
            raise InputError(
                f"max_new_tokens is {params.limit}, but the decoder has {self.context} positions, "
                f"one for the token that it starts with; give at most {self.context - 1}"
            )
        rule = chosen_split(split, self.SPLIT, self.SPLITS)
        return Request(in_ids(params, frame, self._target), frame, rule)

    def _tasks(self, source_lang: str | None, target_lang: str | None) -> tuple[str, ...]:
        return task_names(self.generation, self.PREFIX, source_lang, target_lang)

    def _built_for(self, source_lang: str | None, target_lang: str | None) -> SamplingParams:
        tasks = self._tasks(source_lang, target_lang)
        return default_params(self.generation, context=self.context, tasks=tasks)

    def _read(self, texts: Iterable[str], request: Request) -> Iterator[list[Completion] | Refused]:
        first = 0
        for chunk in read_ahead(texts):
            parts = self._cut([as_plain(text) for text in chunk], request, first=first)
            yield from self._found(parts, request)
            first += len(chunk)

    def _found(
        self, parts: Sequence[Part], request: Request
    ) -> Iterator[list[Completion] | Refused]:
        """Return the answers to each text that `parts` are of."""
        found = iter(self._run([part.ids for part in parts if part.ids], request))
        blank = [_BLANK] * request.params.n
        return joined(parts, [next(found) if part.ids else blank for part in parts])

    def _run(self, sources: Sequence[Sequence[int]], request: Request) -> list[list[Completion]]:
        """Return the answers to each source."""
        if not sources:
            return []
        found = self._engines.run(sources, request.params, start_id=request.frame.start_id)
        texts = iter(self._target.decode_many([each.token_ids for row in found for each in row]))
        return [
            [
                Completion(
                    next(texts), each.token_ids, each.finish_reason, len(source),
                    len(each.token_ids), score=each.score,
                )
                for each in row
            ]
            for source, row in zip(sources, found, strict=True)
        ]  # fmt: skip

    def _cut(self, texts: Sequence[str], request: Request, *, first: int = 0) -> list[Part]:
        cutter = Cutter(
            self._source,
            request.frame,
            limit=self.source_limit,
            side=self.bundle.manifest.text.source.truncation_side,
        )
        return self.cut(texts, first, request.split, cutter)

    def _chunks(self, parts: Sequence[Part], request: Request) -> Iterator[Chunk]:
        """Return the answers to parts, one after the other, with what stands between them."""
        params, start_id = request.params, request.frame.start_id
        streams = [
            self._engines.stream(part.ids, params, start_id=start_id) if part.ids else iter(())
            for part in parts
        ]
        stops = ids_that_stop(params, self.generation.stop_ids)
        return spoken(parts, streams, decode=self._target.text, stops=stops)
