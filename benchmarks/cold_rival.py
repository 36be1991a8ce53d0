"""Import, load, answer once with transformers' pipeline, or with optimum's model in it.

`python benchmarks/cold_rival.py torch|optimum FOLDER TEXT` prints one JSON object as cold_answer.py
does. FOLDER is a checkpoint; for optimum, one that already holds model.onnx.
"""

import time

START = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402

from transformers import pipeline  # noqa: E402

system, folder, text = sys.argv[1:]
if system == "optimum":
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(folder)
    classify = pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder)
    )
else:
    classify = pipeline("text-classification", model=folder, device="cpu")
answer = classify(text)[0]
seconds = time.perf_counter() - START
print(json.dumps({"seconds": seconds, "label": answer["label"], "heavy": []}))
