"""Prints the perplexity of bundles' graphs and GGUF files on the same windows of ids, in one run.

`perplexity.py perm-q4.gguf bundle-4bit --text valid.txt`: the first 6 disjoint windows of 512 ids,
no token in front, all 511 predictions of each window scored alike for everybody. llama.cpp runs in
an interpreter of its own (--llama-python); what is computed from logits is numpy, here.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOWS, LENGTH = 6, 512
FORMS = {"q4_0": 2, "q8_0": 7, "q4_1": 3}  # llama.cpp's numbers of what it quantizes to
Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


def surprise(logits: NDArray[np.float32], ids: Ids) -> Floats:
    """Return -log P of each token after the first: (S, V), (S,) → (S - 1,)."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(rows, ids[1:, None], 1)[:, 0]
    result: Floats = np.log(np.exp(rows).sum(axis=1)) - chosen
    return result


def of_bundle(path: Path, role: str, windows: Ids, threads: int) -> Floats:
    """Return what every window's predictions cost a graph of a bundle: (windows, S - 1)."""
    from lmonnx import Bundle
    from lmonnx.measure.perplexity import Predictor
    from lmonnx.runtime.session import SessionConfig

    predictor = Predictor(Bundle.open(path), role, SessionConfig(threads=threads))
    return np.stack([surprise(predictor.logits(ids), ids) for ids in windows])


def of_gguf(path: Path, windows: Ids, threads: int) -> Floats:
    """Return the same of a GGUF file: (windows, S - 1)."""
    import llama_cpp

    length = windows.shape[1]
    model = llama_cpp.Llama(
        str(path),
        n_ctx=length,
        n_batch=length,
        n_ubatch=length,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
    )
    costs = []
    for ids in windows:
        model.reset()
        model.eval(ids.tolist())
        costs.append(surprise(np.array(model.scores[:length], np.float32), ids))
    return np.stack(costs)


def convert(source: Path, target: Path, form: str) -> None:
    """Quantize a GGUF file as llama.cpp does it unasked.

    Raises:
        SystemExit: llama.cpp refuses.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FORMS[form]
    names = str(source).encode(), str(target).encode()
    if llama_cpp.llama_model_quantize(*names, ctypes.byref(params)):
        raise SystemExit(f"llama.cpp cannot write {target}")


def read_windows(tokenizer: Path, text: Path) -> Ids:
    """Return the first disjoint windows of a text's ids: (WINDOWS, LENGTH).

    Raises:
        SystemExit: The text is too short.
    """
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    ids = loaded.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids
    if len(ids) < WINDOWS * LENGTH:
        raise SystemExit(f"{text} has {len(ids)} tokens, {WINDOWS * LENGTH} are needed")
    return np.array(ids[: WINDOWS * LENGTH], np.int64).reshape(WINDOWS, LENGTH)


def roles_of(path: Path) -> list[str]:
    """Return a bundle's graphs; a GGUF file has one."""
    if not path.is_dir():
        return [""]
    return list(json.loads((path / "lmonnx.json").read_text(encoding="utf-8"))["graphs"])


def measured(path: Path, role: str, windows: Path, python: str, threads: int) -> Floats:
    """Run one contender in a process of its own, so that none takes another's threads."""
    own = sys.executable if path.is_dir() else python
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "costs.npy"
        command = [own, __file__, "--worker", str(result), "--windows", str(windows)]
        command += ["--role", role] if role else []
        subprocess.run([*command, "--threads", str(threads), str(path)], check=True)
        costs: Floats = np.load(result)
    return costs


def weight_bytes(path: Path) -> int:
    """Return the bytes of the weights: the GGUF file, or the files beside a bundle's graphs."""
    files = path.rglob("*.onnx_data") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def report(options: argparse.Namespace) -> None:
    """Measure every contender and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        windows = Path(folder) / "windows.npy"
        np.save(windows, read_windows(options.tokenizer, options.text))
        print(f"{'perplexity':>10}  {'MB':>7}  of {WINDOWS} windows of {LENGTH} ids")
        for path in options.contenders:
            for role in roles_of(path):
                costs = measured(path, role, windows, options.llama_python, options.threads)
                size = weight_bytes(path) / 1e6
                named = f"{path.name} {role}".strip()
                print(f"{np.exp(costs.mean()):10.4f}  {size:7.2f}  {named}", flush=True)


def parse() -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contenders", nargs="+", type=Path, help="bundles and .gguf files")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--convert", choices=sorted(FORMS), help="SOURCE.gguf TARGET.gguf")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--windows", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Convert, work for a report, or report."""
    options = parse()
    if options.convert:
        convert(*options.contenders, options.convert)
    elif options.worker:
        path, windows = options.contenders[0], np.load(options.windows)
        costs = (
            of_bundle(path, options.role, windows, options.threads)
            if options.role
            else of_gguf(path, windows, options.threads)
        )
        np.save(options.worker, costs)
    else:
        report(options)


if __name__ == "__main__":
    main()
