"""Small, fast, safe inference of language models on ONNX Runtime.

>>> import lmonnx
>>> classify = lmonnx.load("build/demo/int8")
>>> classify("a gorgeous film").label
'POSITIVE'
"""

from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING as _IS_CHECKED

__version__ = "0.1.0"

_NO_ONNXRUNTIME = (
    "lmonnx needs onnxruntime, which comes in two packages: "
    "pip install 'lmonnx[cpu]' or pip install 'lmonnx[gpu]'"
)

if not _IS_CHECKED and _find_spec("onnxruntime") is None:

    def __getattr__(name: str) -> object:
        """Say what is missing to whoever needs more than the version: the command line does not."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(_NO_ONNXRUNTIME)

else:
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
    from lmonnx.runtime.pipelines.source_parts import Refused
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
    "Refused",
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
