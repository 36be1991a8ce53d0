"""Import, load, answer once: what lean_environment.py measures in processes of its own.

`python benchmarks/cold_answer.py BUNDLE TEXT` prints one JSON object: seconds since the start of
this file, the answer, and which heavy modules are loaded.
"""

import time

START = time.perf_counter()

import sys  # noqa: E402

import lmonnx  # noqa: E402

HEAVY = (
    "click",
    "huggingface_hub",
    "jinja2",
    "ml_dtypes",
    "onnx",
    "onnxscript",
    "optimum",
    "rich",
    "safetensors",
    "torch",
    "transformers",
)

answer = lmonnx.load(sys.argv[1])(sys.argv[2])
seconds = time.perf_counter() - START
heavy = [name for name in HEAVY if name in sys.modules]

import json  # noqa: E402

print(json.dumps({"seconds": seconds, "label": answer.label, "heavy": heavy}))
