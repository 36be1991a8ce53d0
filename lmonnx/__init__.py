"""Small, fast, safe inference of language models on ONNX Runtime.

>>> import lmonnx
>>> classify = lmonnx.load("build/demo/int8")
>>> classify("a gorgeous film").label
'POSITIVE'
"""

from importlib.util import find_spec as _find_spec

if _find_spec("onnxruntime") is None:
    raise ImportError(
        "lmonnx needs onnxruntime, which comes in two packages: "
        "pip install 'lmonnx[cpu]' or pip install 'lmonnx[gpu]'"
    )

from lmonnx.bundle.bundle import Bundle
from lmonnx.errors import (
    BundleError,
    GateError,
    InputError,
    LmonnxError,
    ParityError,
    StageError,
    UnsupportedError,
)
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.text_classification import (
    Classification,
    LabelScore,
    TextClassifier,
)
from lmonnx.runtime.session import SessionConfig

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "Classification",
    "GateError",
    "InputError",
    "LabelScore",
    "LmonnxError",
    "ParityError",
    "SessionConfig",
    "StageError",
    "TextClassifier",
    "UnsupportedError",
    "__version__",
    "load",
]
