"""onnxruntime-genai on what its model builder wrote."""

import json
from pathlib import Path
from time import perf_counter

import onnxruntime_genai as og
from generation import Decoder, serve


class Genai(Decoder):
    """A folder with genai_config.json."""

    def prepare(self, model: str, threads: int) -> None:
        """Load the folder; how many threads is stated in its file alone."""
        path = Path(model) / "genai_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        options = config["model"]["decoder"]["session_options"]
        if options.get("intra_op_num_threads") != threads:
            options["intra_op_num_threads"] = threads
            path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        self._model = og.Model(model)

    def round(self, prompts: list[list[int]], new: int) -> tuple[float, float]:
        """Read and continue the prompts, which are of one length, as one batch."""
        params = og.GeneratorParams(self._model)
        length = len(prompts[0]) + new
        params.set_search_options(
            max_length=length, min_length=length, batch_size=len(prompts), do_sample=False
        )
        generator = og.Generator(self._model, params)
        start = perf_counter()
        generator.append_tokens(prompts[0] if len(prompts) == 1 else prompts)
        generator.generate_next_token()
        read = perf_counter()
        for _ in range(new - 1):
            generator.generate_next_token()
        return read - start, perf_counter() - read


if __name__ == "__main__":
    serve(Genai())
