"""Freeze a tiny embedder: the bundle that the lean tests load, and sentence-transformers' vectors.

Run from the repository's root, where sentence-transformers and the export extra are installed:

    PYTHONPATH=. python tests/golden/make_embedder.py
"""

from __future__ import annotations

import json
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, quantize_embeddings
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer

from lmonnx.compiler.checkpoint import open_checkpoint
from lmonnx.compiler.export import export
from tests import texts, tiny

HERE = Path(__file__).parent
NAME = "tiny-embedder"
PROMPTS = {"query": "the film is: ", "passage": ""}
SHAPE = {
    "architectures": ["BertModel"],
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "max_position_embeddings": 48,
}


def make_model(folder: Path) -> SentenceTransformer:
    """Return CLS + mean of a tiny BERT, a tanh layer to 12 dimensions, normalized, with prompts."""
    encoder = Transformer(str(tiny.write_bert(folder / "encoder", **SHAPE)))
    encoder.max_seq_length = 40
    pooling = Pooling(16, ("cls", "mean"), include_prompt=False)
    torch.manual_seed(0)
    dense = Dense(32, 12, activation_function=torch.nn.Tanh())
    with torch.no_grad():
        dense.linear.weight.mul_(3)  # else the tanh is nearly a line
    return SentenceTransformer(
        modules=[encoder, pooling, dense, Normalize()],
        device="cpu",
        prompts=PROMPTS,
        similarity_fn_name="dot",
    )


def rows(values: Any) -> list[list[float]]:
    """Return an array's rows to seven digits."""
    return [[float(f"{x:.7g}") for x in row] for row in np.asarray(values).tolist()]


def main() -> None:
    """Write the bundle and the vectors."""
    warnings.simplefilter("ignore")
    items = [item for item in texts.mixed_texts() if isinstance(item, str)][::4]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / NAME
        model = make_model(Path(name))
        model.save(str(folder))
        model = SentenceTransformer(str(folder), device="cpu")
        export(open_checkpoint(str(folder)), HERE / NAME, verify=False, force=True)
        vectors = model.encode(items)
        stated = {
            "source": f"sentence-transformers {version('sentence-transformers')} on {NAME}",
            "versions": {n: version(n) for n in ("torch", "transformers", "tokenizers", "numpy")},
            "prompts": model.prompts,
            "texts": items,
            "vectors": rows(vectors),
            "query": rows(model.encode(items[:8], prompt_name="query")),
            "cut": rows(model.encode(items[:8], truncate_dim=5)),
            "cut and normalized": rows(
                model.encode(items[:8], truncate_dim=5, normalize_embeddings=True)
            ),
            "tokens": [rows(model.encode(items[-1], output_value="token_embeddings"))],
            "similarity": rows(model.similarity(vectors[:4], vectors[4:8])),
            "packed": {
                kind: quantize_embeddings(vectors[:8], kind).tolist()
                for kind in ("int8", "uint8", "binary", "ubinary")
            },
        }
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in stated.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (HERE / f"{NAME}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
