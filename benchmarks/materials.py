"""Make what the contenders are given: checkpoints of random weights, bundles, float32 graphs.

Everything lies in build/bench-cache/<model>; a bundle is made anew when lmonnx's code changed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from environments import ROOT, python_of
from workload import Workload, locate

CACHE = ROOT / "build" / "bench-cache"
SOURCES = ("lmonnx/bundle", "lmonnx/compiler", "lmonnx/runtime")

# Bundle → the one it is made from and the stage that makes it; from nothing: the checkpoint.
STAGES: dict[str, tuple[str, list[str]]] = {
    "fp32": ("", ["export", "--no-verify"]),
    "opt": ("fp32", ["optimize"]),
    "int8": ("opt", ["quantize"]),
    "int8-tensor": ("opt", ["quantize", "--granularity", "tensor"]),
    # An encoder-decoder's graphs are fused as they are exported.
    "pair-int8": ("fp32", ["quantize"]),
}
# Random checkpoint → what writes it.
MAKERS: dict[str, list[str]] = {
    "bert-base": ["benchmarks/random_bert.py"],
    "marian": ["benchmarks/random_seq2seq.py", "marian"],
    "t5-small": ["benchmarks/random_seq2seq.py", "t5"],
}
# Random weights have no accuracy to lose: their labels hang on nothing.
UNGATED = ["--max-drop", "1"]


class Materials:
    """The files of one model: `checkpoint`, a cache folder, and what was made from it."""

    def __init__(self, place: Mapping[str, str], model: Path | None = None) -> None:
        """Find a checkpoint, or make it.

        Args:
            place: Where it is, as a workload states it.
            model: Another to take in its place.
        """
        self._random = "random" in place and model is None
        name = place.get("random", "")
        self.checkpoint = model or (
            CACHE / f"{name}-random" / "checkpoint" if name else _found(place)
        )
        self.name = f"{name}-random" if self._random else self.checkpoint.resolve().name
        self.cache = CACHE / self.name
        self.cache.mkdir(parents=True, exist_ok=True)
        self._given: dict[str, Path] = {}
        if self._random and not (self.checkpoint / "config.json").is_file():
            run_in("lmonnx", *MAKERS[name], str(self.checkpoint))

    def give(self, name: str, bundle: Path | None) -> None:
        """Use a bundle that is there already."""
        if bundle:
            self._given[name] = bundle.resolve()

    def bundle(self, name: str) -> Path:
        """Return a bundle of STAGES, made with lmonnx's own commands if need be."""
        if name in self._given:
            return self._given[name]
        base, stage = STAGES[name]
        source = self.bundle(base) if base else self.checkpoint
        command = [*stage, *(UNGATED if self._random and stage[0] == "quantize" else [])]
        target, stamp = self.cache / name, self.cache / f"{name}.stamp"
        wanted = _digest(command, source)
        if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
            shutil.rmtree(target, ignore_errors=True)
            verb, *options = command
            run_in("lmonnx", "-m", "lmonnx", verb, str(source), "-o", str(target), *options)
            stamp.write_text(wanted, encoding="utf-8")
            if name == "fp32":  # what onnxruntime's tool made of its graph is of no use any more
                shutil.rmtree(self.cache / "quantize-dynamic", ignore_errors=True)
        return target

    def graphs(self) -> dict[str, str]:
        """Return float32 ONNX files of the model: lmonnx's, and optimum's."""
        run_in("optimum", "benchmarks/contenders/optimum_pipeline.py", *self._optimum())
        return {
            "lmonnx graph": str(self.bundle("fp32") / "onnx" / "model.onnx"),
            "optimum graph": str(self.cache / "optimum" / "model.onnx"),
        }

    def texts(self, workload: Workload) -> Path:
        """Return a file of texts with the token counts that a workload of lengths asks for."""
        (least, most), count = workload.lengths, workload.count
        made = self.cache / f"{workload.name}-{least}-{most}-{count}-{workload.seed}.json"
        if not made.is_file():
            spread = [least, most, count, workload.seed]
            files = [self.checkpoint / "tokenizer.json", locate(workload.data), made]
            run_in("lmonnx", "benchmarks/spread_texts.py", *map(str, [*files, *spread]))
        return made

    def _optimum(self) -> Sequence[str]:
        return str(self.checkpoint), str(self.cache)


def _found(place: Mapping[str, str]) -> Path:
    """Return a checkpoint's folder; one of the user's cache is fetched where it is absent."""
    folder = locate(place)
    if "cached" in place and not folder.is_dir():
        fetch = locate({"shared": "models/fetch.py"})
        # Which has what fetch.py imports for it: numpy and safetensors.
        run_in("sentence-transformers", str(fetch), str(folder.parent), folder.name)
    return folder


def run_in(environment: str, *command: str) -> None:
    """Run python in an environment; what it prints goes to standard error."""
    subprocess.run([str(python_of(environment)), *command], check=True, cwd=ROOT, stdout=sys.stderr)


def _digest(command: Sequence[str], source: Path) -> str:
    """Return what a bundle hangs on: the command, its input and the code of the stages."""
    seen = hashlib.sha256(repr([*command, source.resolve().name]).encode())
    code = (path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py")))
    configs = [source / "config.json", source / "lmonnx.json"]
    for path in [*code, *(path for path in configs if path.is_file())]:
        seen.update(path.read_bytes())
    return seen.hexdigest()
