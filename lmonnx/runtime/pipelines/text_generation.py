"""Prompts → completions: a decoder's tokenizer, engine and chat template behind one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import BundleError, InputError
from lmonnx.runtime.generate.beams import Beams
from lmonnx.runtime.generate.capacity import Capacity, make_cache
from lmonnx.runtime.generate.chat import ChatTemplate, read_template
from lmonnx.runtime.generate.decoder import Decoder, check_cache, open_sessions
from lmonnx.runtime.generate.detokenizer import byte_fallback_ids
from lmonnx.runtime.generate.draft_model import Drafts, open_draft
from lmonnx.runtime.generate.drafting import Drafter
from lmonnx.runtime.generate.engine import Engine
from lmonnx.runtime.generate.lookup import PromptLookup
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.prompt_tokenizer import PromptTokenizer
from lmonnx.runtime.generate.reading import NextToken, Score, next_tokens, score
from lmonnx.runtime.generate.request import Chunk, Completion, Job
from lmonnx.runtime.generate.sampled import Sampled
from lmonnx.runtime.generate.structured import Grammars
from lmonnx.runtime.generate.voice import Voice
from lmonnx.runtime.pipelines.lasting import Lasting
from lmonnx.runtime.session import SessionConfig

Prompt = str | Sequence[int]
Message = Mapping[str, Any]
GREEDY = SamplingParams()


class TextGenerator(Lasting):
    """A loaded decoder; any number of threads may share it, their requests run together.

    A prompt is a text, or its token ids. What it has in common with an earlier one is not
    computed again.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: SessionConfig | None = None,
        *,
        capacity: Capacity | None = None,
        draft: TextGenerator | Bundle | None = None,
    ) -> None:
        """Load the graphs.

        Args:
            bundle: A decoder.
            config: How to run its graphs.
            capacity: How large the cache may be.
            draft: A smaller model of the same tokenizer, which guesses ahead.

        Raises:
            BundleError: It is no decoder, or is damaged.
            InputError: The cache does not fit, or the draft has another vocabulary.
        """
        self.bundle = bundle
        self.config = config or SessionConfig()
        self.generation = check_cache(bundle)
        self.tokenizer = PromptTokenizer(
            bundle.file(bundle.manifest.text.source.file), bundle.manifest.text
        )
        cache = make_cache(self.generation, capacity or Capacity())
        self.context, self.slots = cache.length, cache.slots
        sessions = open_sessions(bundle, self.config)
        self._engine = Engine(
            Decoder(
                sessions,
                cache,
                vocabulary=self.generation.vocabulary,
                lone_rows=self.config.lone_rows,
            )
        )
        guide = draft.bundle if isinstance(draft, TextGenerator) else draft
        if guide is not None and not isinstance(guide, Bundle):
            raise InputError(f"draft is {type(draft).__name__}; give a bundle's folder, or load it")
        self._draft = (
            None
            if guide is None
            else open_draft(guide, self.config, target=bundle, context=self.context)
        )
        grammars = Grammars(
            bundle.file(bundle.manifest.text.source.file), stop_ids=self.generation.stop_ids
        )
        self._voice = Voice(
            self.generation.vocabulary,
            self.generation.stop_ids,
            self.tokenizer.within,
            self.tokenizer.text,
            grammars.constraint,
            byte_fallback_ids(self.tokenizer.id_of),
            cleans=bool(bundle.manifest.text.source.clean_up_spaces),
        )
        self._lock = Lock()
        self._template: ChatTemplate | None = None

    def __call__(
        self, prompts: Prompt | Iterable[Prompt], params: SamplingParams | None = None
    ) -> list[Completion]:
        """Complete prompts, all at once; `params.n` completions of each, in the prompts' order.

        Without `params` it is greedy.

        Raises:
            InputError: A prompt or an option is wrong, or does not fit the cache.
        """
        jobs = [job for prompt in _many(prompts) for job in self._jobs(prompt, params)]
        self._run(jobs)
        return [completion for job in jobs for completion in _completions(job)]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Chunk]:
        """Yield a completion's text as it comes; closing the iterator ends the request.

        Raises:
            InputError: As for a call, at once; or there would be several completions.
        """
        if isinstance(params, SamplingParams) and max(params.n, params.num_beams) > 1:
            raise InputError("a stream is of one completion: leave n and num_beams at 1")
        (job,) = self._jobs(prompt, params)
        self._engine.check(job)
        return self._engine.chunks(job)

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Completion:
        """Answer a conversation by the checkpoint's template; the first of `params.n` answers.

        Raises:
            InputError: A message, a tool or an option is wrong.
            UnsupportedError: The bundle has no chat template.
        """
        return self([self.chat_prompt(messages, tools=tools)], params)[0]

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Return the prompt of a conversation, as ids: a message's text makes no special token.

        Args:
            messages: Each with `role` and `content`, in transformers' form.
            tools: JSON schemas of the functions that may be called.
            add_generation_prompt: End with the beginning of the assistant's answer.
            variables: More of what the template reads, such as `enable_thinking`.

        Raises:
            InputError: A message is wrong, or the template refuses it.
            UnsupportedError: The bundle has no chat template.
        """
        template = self._chat_template()
        return template.encode(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables=variables or {},
        )

    def next_token(self, prompt: Prompt, k: int = 10) -> list[NextToken]:
        """Return the `k` likeliest tokens after a prompt, likeliest first.

        Raises:
            InputError: `k` is no count, or the prompt does not fit.
        """
        ids = self._ids(prompt)
        return next_tokens(ids, k, self._run, partial(self._text_after, ids))

    def score(self, text: Prompt, *, window: int | None = None, stride: int | None = None) -> Score:
        """Return how likely each token of a text is, given those before it in its window.

        Args:
            text: At least two tokens, of any number.
            window: Tokens that are read together; None is the whole context.
            stride: How far the window moves at a time; None is half of it.

        Raises:
            InputError: The text is too short, or window and stride do not fit.
        """
        ids = self._ids(text)
        return score(ids, self._run, context=self.context, window=window, stride=stride)

    def close(self) -> None:
        self._engine.close()

    def _run(self, jobs: Sequence[Job]) -> None:
        """Run jobs to their ends; all are cancelled where one fails, or the caller gives up."""
        try:
            for job in jobs:
                self._engine.submit(job)
            for job in jobs:
                self._engine.wait(job)
        finally:
            for job in jobs:
                self._engine.cancel(job)

    def _text_after(self, ids: Sequence[int], token: int) -> str:
        voice = self._voice.detokenizer(ids)
        return voice.push(token) + voice.flush()

    def _jobs(self, prompt: Prompt, params: SamplingParams | None) -> list[Job]:
        ids = self._ids(prompt)
        params = GREEDY if params is None else params
        if not isinstance(params, SamplingParams):
            raise InputError(f"params is {type(params).__name__}; give SamplingParams(…)")
        if params.max_new_tokens is None:  # what nobody asked for cannot be too much
            left = max(1, params.min_new_tokens, self.context - len(ids))
            params = replace(params, max_new_tokens=min(params.limit, left))
        if params.num_beams > 1:
            return [Beams(ids, params, self._voice)]
        return [
            Sampled(ids, params, self._voice, index=index, drafter=self._drafter(params))
            for index in range(params.n)
        ]

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer.prompt(prompt)
        elif isinstance(prompt, list | tuple):
            ids = list(prompt)
        else:
            raise InputError(f"{type(prompt).__name__} is no prompt: give a str, or token ids")
        for index in ids:
            if type(index) is not int or not 0 <= index < self.generation.vocabulary:
                raise InputError(
                    f"{index!r:.40} is no token id: the model has ids from 0 to "
                    f"{self.generation.vocabulary - 1}"
                )
        return ids

    def _drafter(self, params: SamplingParams) -> Drafter | None:
        if params.prompt_lookup:
            return PromptLookup(params.prompt_lookup)
        return None if self._draft is None else Drafts(self._draft)

    def _chat_template(self) -> ChatTemplate:
        with self._lock:
            if self._template is None:
                self._template = read_template(self.bundle, self.tokenizer)
        return self._template


def _many(prompts: Prompt | Iterable[Prompt]) -> list[Prompt]:
    """Return a list of prompts; a lone text, or a lone row of ids, is one."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Mapping | bytes) or not isinstance(prompts, Iterable):
        raise InputError(f"{type(prompts).__name__} is no prompt, nor a list of prompts")
    found: list[Any] = list(prompts)
    return [found] if found and all(type(item) is int for item in found) else found


def _completions(job: Job) -> list[Completion]:
    if isinstance(job, Beams):
        return job.completions()
    if isinstance(job, Sampled):
        return [job.completion()]
    raise BundleError(f"{type(job).__name__} has no completion")
