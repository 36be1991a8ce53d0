"""lmonnx: a decoder's bundle, through its engine."""

from time import perf_counter

from generation import Decoder, serve

import lmonnx
from lmonnx import SamplingParams


class Lmonnx(Decoder):
    """All prompts in one call's steps: a thread each would only add its own switching."""

    def prepare(self, model: str, threads: int) -> None:
        """Load a bundle."""
        self._model = lmonnx.load(model, threads=threads, verify=False)

    def round(self, prompts: list[list[int]], new: int) -> tuple[float, float]:
        """Time one stream, or what all prompts take with one new token and with all."""
        start = perf_counter()
        if len(prompts) == 1:
            params = SamplingParams(max_new_tokens=new, ignore_eos=True)
            times = []
            for chunk in self._model.stream(prompts[0], params):
                times += [perf_counter()] * len(chunk.token_ids)
            assert len(times) == new
            return times[0] - start, times[-1] - times[0]
        first = SamplingParams(max_new_tokens=1, ignore_eos=True)
        self._model(prompts, first)
        read = perf_counter()
        # The prompts are in the cache now, so this is the decoding and one more step.
        params = SamplingParams(max_new_tokens=new, ignore_eos=True)
        self._model(prompts, params)
        return read - start, perf_counter() - read


if __name__ == "__main__":
    serve(Lmonnx())
