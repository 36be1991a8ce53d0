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
from lmonnx.runtime.generate.logprobs import TokenLogprob
from lmonnx.runtime.generate.params import SamplingParams
from lmonnx.runtime.generate.reading import NextToken, Score
from lmonnx.runtime.generate.request import Chunk, Completion
from lmonnx.runtime.loading import load
from lmonnx.runtime.pipelines.answer_spans import Answer
from lmonnx.runtime.pipelines.entities import Entity, Token
from lmonnx.runtime.pipelines.feature_extraction import Embedder
from lmonnx.runtime.pipelines.fill_mask import Fill, FillMasker
from lmonnx.runtime.pipelines.question_answering import QuestionAnswerer
from lmonnx.runtime.pipelines.summarization import Summarizer
from lmonnx.runtime.pipelines.text_classification import (
    Classification,
    LabelScore,
    TextClassifier,
)
from lmonnx.runtime.pipelines.text_generation import TextGenerator
from lmonnx.runtime.pipelines.text_ranking import Ranked, Reranker
from lmonnx.runtime.pipelines.text_to_text import TextToText
from lmonnx.runtime.pipelines.token_classification import TokenClassifier
from lmonnx.runtime.pipelines.translation import Translator
from lmonnx.runtime.pipelines.zero_shot import ZeroShot, ZeroShotClassifier
from lmonnx.runtime.session import SessionConfig

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Bundle",
    "BundleError",
    "Chunk",
    "Classification",
    "Completion",
    "Embedder",
    "Entity",
    "Fill",
    "FillMasker",
    "GateError",
    "InputError",
    "LabelScore",
    "LmonnxError",
    "NextToken",
    "ParityError",
    "QuestionAnswerer",
    "Ranked",
    "Reranker",
    "SamplingParams",
    "Score",
    "SessionConfig",
    "StageError",
    "Summarizer",
    "TextClassifier",
    "TextGenerator",
    "TextToText",
    "Token",
    "TokenClassifier",
    "TokenLogprob",
    "Translator",
    "UnsupportedError",
    "ZeroShot",
    "ZeroShotClassifier",
    "__version__",
    "load",
]
