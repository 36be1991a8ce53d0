"""llama.cpp by its own batch calls: nothing of its Python side is in the loop but argmax."""

import ctypes
from time import perf_counter

import llama_cpp as api
import numpy as np
from generation import Decoder, serve

CONTEXT = 512  # tokens a sequence
SEQUENCES = 16
WITH_DATA = True


@api.llama_log_callback
def QUIET(level: int, text: bytes, data: object) -> None:  # noqa: N802 - a constant for C
    """Drop what the library says of its tensors."""


class LlamaCpp(Decoder):
    """A GGUF file; sequences share one context."""

    def prepare(self, model: str, threads: int) -> None:
        """Load the file."""
        api.llama_log_set(QUIET, ctypes.c_void_p(0))
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            model.encode(), api.llama_model_default_params()
        )
        options = api.llama_context_default_params()
        options.n_ctx = CONTEXT * SEQUENCES
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = SEQUENCES
        options.n_threads = options.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, options)
        self._words = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def round(self, prompts: list[list[int]], new: int) -> tuple[float, float]:
        """Read each prompt, then one token of every sequence a call."""
        api.llama_memory_clear(api.llama_get_memory(self._context), WITH_DATA)
        batch = api.llama_batch_init(512, 0, 1)
        start = perf_counter()
        last = [self._read(batch, prompt, row) for row, prompt in enumerate(prompts)]
        read = perf_counter()
        for step in range(new - 1):
            for row, (token, prompt) in enumerate(zip(last, prompts, strict=True)):
                self._put(batch, row, token, len(prompt) + step, row, wanted=True)
            self._run(batch, len(prompts))
            last = [self._likeliest(row) for row in range(len(prompts))]
        done = perf_counter()
        api.llama_batch_free(batch)
        return read - start, done - read

    def _read(self, batch: api.llama_batch, prompt: list[int], row: int) -> int:
        for place, token in enumerate(prompt):
            self._put(batch, place, token, place, row, wanted=place == len(prompt) - 1)
        self._run(batch, len(prompt))
        return self._likeliest(len(prompt) - 1)

    @staticmethod
    def _put(batch: api.llama_batch, at: int, token: int, place: int, row: int, *, wanted: bool):
        batch.token[at], batch.pos[at] = token, place
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
        batch.logits[at] = wanted

    def _run(self, batch: api.llama_batch, count: int) -> None:
        batch.n_tokens = count
        if api.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")

    def _likeliest(self, at: int) -> int:
        row = api.llama_get_logits_ith(self._context, at)
        floats = ctypes.cast(row, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(floats, (self._words,)).argmax())


if __name__ == "__main__":
    serve(LlamaCpp())
