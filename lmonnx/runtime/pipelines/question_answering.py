"""Question and context → the part that answers, as transformers' question-answering gives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.manifest import Side
from lmonnx.errors import InputError
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.pipelines.answer_spans import Answer, Found, Search, find_spans, merge_answers
from lmonnx.runtime.pipelines.base import Outputs, Pipeline, at_least_one, is_pair, long_policy
from lmonnx.runtime.pipelines.tokens import unpadded
from lmonnx.runtime.session import SessionConfig
from lmonnx.runtime.tokenizer import Cut, Long, Text

# transformers' own defaults, in tokens.
MAX_SEQ_LEN = 384
DOC_STRIDE = 128

Question = tuple[str, str] | Mapping[str, str]
Result = Answer | list[Answer]


class QuestionAnswerer(Pipeline[Any]):
    """Answer questions by a part of their context; any number of threads may share one."""

    OUTPUTS = ("start_logits", "end_logits")
    SPANS = True

    def __init__(
        self, bundle: Bundle, config: SessionConfig | None = None, *, long: Long | str | None = None
    ) -> None:
        if long is not None and long_policy(long) not in {Long.WINDOW, Long.ERROR}:
            raise InputError(f"long is {long!r}; a long context is answered whole: take 'window'")
        super().__init__(bundle, config, long=long)
        # transformers puts the context first where padding comes first.
        self._context = 1 if self._spec.padding_side is Side.RIGHT else 0

    def reduce(self, outputs: Outputs, batch: Batch) -> Sequence[NDArray[np.float32]]:
        """Return a window's start and end logits, (2, S)."""
        side = self._spec.padding_side
        columns = [unpadded(outputs[name], batch, side, ()) for name in self.OUTPUTS]
        return [np.stack(pair) for pair in zip(*columns, strict=True)]

    def raw(
        self, texts: Iterable[Text], *, long: Long | str | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the start and end logits of the first window of (question, context), (2, S)."""
        for windows in self.windows(texts, long=Long.TRUNCATE if long is None else long):
            yield windows[0].row

    def __call__(
        self,
        question: str | Question | Iterable[str | Question],
        context: str | Iterable[str] | None = None,
        *,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Result | list[Result]:
        """Answer one question, or many in their order.

        Args:
            question: A question with its `context` beside it; a mapping with `question` and
                `context`, or a tuple of both; or a list of these.
            context: That of the question; of a list of questions one for all, or one for each.
            top_k: How many answers to give; fewer, where the context has not so many.
            doc_stride: How many tokens of context two windows share; None is 128, or half a window.
            max_answer_len: Of an answer, in tokens.
            max_seq_len: Of a window, in tokens, at most the model's own; None is at most 384.
            max_question_len: Of no effect, as in transformers: a fast tokenizer leaves the
                question whole.
            handle_impossible_answer: Give "" where no answer is likelier than every answer.
            align_to_words: Make an answer whole words.

        Returns:
            An answer a question, or with `top_k` over 1 a list of them, likeliest first.

        Raises:
            InputError: A question or context is empty, missing or no text, or an option is wrong.
        """
        one = isinstance(question, str | Mapping) or (context is None and is_pair(question))
        answers = list(
            self.stream(
                [_one(question, context)] if one else _many(question, context),
                top_k=top_k,
                doc_stride=doc_stride,
                max_answer_len=max_answer_len,
                max_seq_len=max_seq_len,
                max_question_len=max_question_len,
                handle_impossible_answer=handle_impossible_answer,
                align_to_words=align_to_words,
            )
        )
        return answers[0] if one else answers

    def stream(
        self,
        items: Iterable[Question],
        *,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        max_question_len: int = 64,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
    ) -> Iterator[Result]:
        """Answer an endless input of pairs or mappings in its order, in bounded memory."""
        at_least_one(max_question_len, "max_question_len")
        search = Search(
            at_least_one(top_k, "top_k"),
            at_least_one(max_answer_len, "max_answer_len"),
            _flag(handle_impossible_answer, "handle_impossible_answer"),
            _flag(align_to_words, "align_to_words"),
        )
        cut = self._cut(max_seq_len, doc_stride)

        def find(outputs: Outputs, batch: Batch) -> list[Found]:
            rows = zip(self.reduce(outputs, batch), batch.encodings, strict=True)
            return [find_spans(logits, window, self._context, search) for logits, window in rows]

        asked, kept = tee(map(_pair, items))
        texts = (pair if self._context else pair[::-1] for pair in asked)
        found = self.windows(texts, cut=cut, reduce=find)
        for windows, (_, context) in zip(found, kept, strict=False):
            answers = merge_answers(windows, context, self._context, search)
            yield answers if top_k > 1 else answers[0]

    def _cut(self, max_seq_len: int | None, doc_stride: int | None) -> Cut:
        """Return how a context becomes windows."""
        limit = self.bundle.manifest.text.max_length
        asked = MAX_SEQ_LEN if max_seq_len is None else at_least_one(max_seq_len, "max_seq_len")
        length = min(asked, limit)
        special = limit - self.tokenizer.room(pair=True)
        if length <= special:
            raise InputError(f"max_seq_len is {length}, must be over {special}, the special tokens")
        stride = min(length // 2, DOC_STRIDE) if doc_stride is None else doc_stride
        room = length - special
        if doc_stride is not None and (type(stride) is not int or not 0 <= stride < room):
            raise InputError(
                f"doc_stride is {stride!r:.60}, must be from 0 to {room - 1} of a window's {length}"
            )
        return Cut(length, stride, part=self._context)


def _one(question: Any, context: Any) -> Question:
    """Return a single question with its context."""
    if not isinstance(question, str):
        if context is not None:
            raise InputError("the context is in the question's mapping already; leave one out")
        return question  # type: ignore[no-any-return]
    if context is None:
        raise InputError("the question has no context; give context=, the text that answers it")
    if not isinstance(context, str):
        raise InputError(f"context is {type(context).__name__}, must be str beside one question")
    return question, context


def _many(questions: Any, context: Any) -> Iterable[Question]:
    """Return questions with their contexts."""
    if not isinstance(questions, Iterable) or isinstance(questions, bytes):
        raise InputError(f"{type(questions).__name__} is no question, nor a list of questions")
    if context is None:
        return questions
    if isinstance(context, str):
        return ((question, context) for question in questions)
    if isinstance(context, Mapping | bytes) or not isinstance(context, Iterable):
        raise InputError(f"{type(context).__name__} is no context, nor a list of contexts")
    paired = list(questions), list(context)
    if len(paired[0]) != len(paired[1]):
        raise InputError(
            f"there are {len(paired[0])} questions and {len(paired[1])} contexts; "
            "give one context for all, or one for each"
        )
    return zip(*paired, strict=True)


def _pair(item: object) -> tuple[str, str]:
    """Return a question and its context.

    Raises:
        InputError: One of them is missing, empty or no text.
    """
    if isinstance(item, Mapping) and set(item) == {"question", "context"}:
        item = (item["question"], item["context"])
    elif isinstance(item, Mapping) or not isinstance(item, tuple) or len(item) != 2:
        raise InputError(
            f"{type(item).__name__} is no question with a context: give a tuple of both, or a "
            "mapping with `question` and `context`"
        )
    for name, text in zip(("question", "context"), item, strict=True):
        if not isinstance(text, str):
            raise InputError(f"{name} is {type(text).__name__}, must be str")
        if not text:
            raise InputError(f"{name} is empty; give a text")
    return item


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}, must be True or False")
    return value
