"""A checkpoint's own answers, by transformers; the one door to it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmonnx.bundle.manifest import Manifest, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.measure.decisions import RawModel
from lmonnx.runtime.batch import Batch
from lmonnx.runtime.pipelines.feature_extraction import TOKEN_OUTPUTS, lower
from lmonnx.runtime.tokenizer import Text

BATCH = 8  # padded batches of mixed length: padding must not change an answer

Raw = NDArray[np.float32]  # (rows, C)
Outputs = Mapping[str, NDArray[Any]]


def is_installed() -> bool:
    """Say whether torch and transformers are there."""
    return all(find_spec(name) is not None for name in ("torch", "transformers"))


def reference_answers(
    checkpoint: Checkpoint, texts: Sequence[Text], *, model: RawModel
) -> list[Raw]:
    """Return the raw outputs of texts, (rows, C) each, in float32 arithmetic, from padded batches.

    No code of the checkpoint is run, and nothing is downloaded.

    Args:
        checkpoint: What answers.
        texts: What is asked: plain texts, pairs, or both.
        model: The bundle, loaded: its task says which outputs, its manifest where to pad (absolute
            positions move with the other side) and cut; an embedder pools for both.

    Raises:
        UnsupportedError: transformers or torch is not installed.
        StageError: transformers cannot load the checkpoint.
    """
    with transformers_ready():
        return _answers(checkpoint, texts, model)


@contextmanager
def transformers_ready() -> Iterator[None]:
    """Let transformers be used, without its warnings and its telemetry.

    Raises:
        UnsupportedError: transformers or torch is not installed.
    """
    if not is_installed():
        raise UnsupportedError(
            "comparing with a checkpoint needs transformers and torch: "
            "pip install 'lmonnx[optimum,cpu]', or verify against a golden file (--golden)"
        )
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def reference_runs(name: str) -> Iterator[None]:
    """Say of whatever fails that it is transformers that does.

    Args:
        name: The checkpoint.

    Raises:
        StageError: Something failed.
    """
    try:
        yield
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise StageError(
            f"transformers itself fails on {name} ({type(error).__name__}: {line:.200}), so there "
            "is nothing to compare with; export with --no-verify if you must"
        ) from error


@dataclass(frozen=True, slots=True)
class _Asked:
    """A batch that was run: its encoding, what the model gave, and the bundle it is for."""

    model: Any  # a RawModel; of an embedder its pooling too
    encoding: Any
    kept: NDArray[np.bool_]  # (B, S), where there is no padding
    outputs: Outputs


@dataclass(frozen=True, slots=True)
class _Reference:
    """A task's class of transformers, and how its outputs become rows a text."""

    auto_class: str
    rows: Callable[[_Asked], list[Raw]]
    truncation: str = "longest_first"
    options: Mapping[str, str] = field(default_factory=dict)  # of the class's loading
    decodes: bool = False

    def of_decoder(self) -> _Reference:
        """Return the same for a decoder."""
        # torch's fused attention passes over the soft cap of the scores (transformers 4.57).
        return replace(self, options={"attn_implementation": "eager"}, decodes=True)


def _texts(asked: _Asked) -> list[Raw]:
    return list(asked.outputs["logits"][:, None])


def _tokens(asked: _Asked) -> list[Raw]:
    logits = asked.outputs["logits"]
    parts = [np.array(asked.encoding.sequence_ids(row)) for row in range(len(logits))]
    return [row[part != None] for row, part in zip(logits, parts, strict=True)]  # noqa: E711


def _spans(asked: _Asked) -> list[Raw]:
    pairs = zip(asked.outputs["start_logits"], asked.outputs["end_logits"], strict=True)
    rows = zip(pairs, asked.kept, strict=True)
    return [np.stack(pair)[:, kept] for pair, kept in rows]


def _next_tokens(asked: _Asked) -> list[Raw]:
    """Return the logits after each text's last token; padding stands after it, unseen."""
    rows = zip(asked.outputs["logits"], asked.kept.sum(axis=1), strict=True)
    return [row[max(0, length - 1) : length] for row, length in rows]


def _masks(asked: _Asked) -> list[Raw]:
    source = asked.model.bundle.manifest.text.source
    masks = [
        np.array(encoding.tokens) == source.mask_token for encoding in asked.encoding.encodings
    ]
    return [row[mask] for row, mask in zip(asked.outputs["logits"], masks, strict=True)]


def _vectors(asked: _Asked) -> list[Raw]:
    mask = {"attention_mask": asked.kept.astype(np.int64)}
    hidden = dict.fromkeys(TOKEN_OUTPUTS, asked.outputs["last_hidden_state"])
    pooled = asked.model.reduce(hidden, Batch((), (), mask))
    return [vector[None] for vector in pooled]


_CLASSIFIER = "AutoModelForSequenceClassification"
_REFERENCES: Mapping[Task, _Reference] = {
    Task.TEXT_CLASSIFICATION: _Reference(_CLASSIFIER, _texts),
    Task.ZERO_SHOT_CLASSIFICATION: _Reference(_CLASSIFIER, _texts, "only_first"),
    Task.TEXT_RANKING: _Reference(_CLASSIFIER, _texts),
    Task.TOKEN_CLASSIFICATION: _Reference("AutoModelForTokenClassification", _tokens),
    Task.QUESTION_ANSWERING: _Reference("AutoModelForQuestionAnswering", _spans),
    Task.FILL_MASK: _Reference("AutoModelForMaskedLM", _masks),
    Task.FEATURE_EXTRACTION: _Reference("AutoModel", _vectors),
    Task.TEXT_GENERATION: _Reference("AutoModelForCausalLM", _next_tokens, decodes=True),
}


def _reference(manifest: Manifest) -> _Reference:
    found = _REFERENCES[manifest.task]
    decodes = "GroupQueryAttention" in manifest.graphs["model"].operators
    return found.of_decoder() if decodes else found


LOCAL: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _from_folder(checkpoint: Checkpoint, reference: _Reference) -> Any:
    import torch
    import transformers

    auto_class = getattr(transformers, reference.auto_class)
    options = {**LOCAL, **reference.options, "output_loading_info": True}
    model, found = auto_class.from_pretrained(checkpoint.path, dtype=torch.float32, **options)
    if reference.decodes and found["missing_keys"]:  # of Gemma 3 without its head it finds none
        return _from_tensors(checkpoint, reference)
    return model.eval()


def _from_tensors(checkpoint: Checkpoint, reference: _Reference) -> Any:
    """Load what our reader finds: transformers' own does not know every GGUF file.

    Raises:
        StageError: The model wants a tensor that is not there.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(checkpoint.path, **LOCAL)
    auto_class = getattr(transformers, reference.auto_class)
    model = auto_class.from_config(config, **reference.options).float().eval()
    model.tie_weights()
    wanted, weights = dict(model.named_parameters()), checkpoint.weights()
    # A model without its head has shorter names; Gemma 3's class tells its prefix wrongly.
    prefixes = (f"{model.base_model_prefix}.", "model.")
    stored = {name.removeprefix(prefix): name for prefix in prefixes for name in weights}
    stored |= {name: name for name in weights}
    if missing := sorted(wanted.keys() - stored.keys()):
        raise StageError(f"{checkpoint.repo} has no {missing[0]}, which transformers' model wants")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(torch.from_numpy(np.asarray(weights.read(stored[name]), np.float32)))
    return model


def _answers(checkpoint: Checkpoint, texts: Sequence[Text], made: RawModel) -> list[Raw]:
    import torch
    import transformers

    manifest = made.bundle.manifest
    reference = _reference(manifest)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.path, **LOCAL)
        load = _from_tensors if checkpoint.gguf else _from_folder
        model = load(checkpoint, reference)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise StageError(f"transformers cannot load {checkpoint.repo}: {error!s:.300}") from error
    tokenizer.padding_side = manifest.text.source.padding_side.value
    if tokenizer.pad_token is None:  # of many decoders; any token does, after the others
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(manifest.text.source.pad_id)
    if manifest.embedding and manifest.embedding.lower_case:
        texts = [lower(str(text)) for text in texts]
    found: dict[int, Raw] = {}
    with torch.inference_mode():
        for rows in _batches(texts):
            with reference_runs(checkpoint.repo):
                # Decoders refuse types, or as GPT-2 does add the vector of a word.
                encoding = tokenizer(
                    *_columns([texts[row] for row in rows]),
                    padding=True,
                    truncation=reference.truncation,
                    max_length=manifest.text.max_length,
                    return_tensors="pt",
                    return_token_type_ids=False if reference.decodes else None,
                )
                asked = _ask(model, encoding, made)
            found.update(zip(rows, reference.rows(asked), strict=True))
    return [found[row] for row in range(len(texts))]


def _batches(texts: Sequence[Text]) -> Iterator[list[int]]:
    """Yield the rows of batches: plain texts first, then pairs."""
    pairs = [not isinstance(text, str) for text in texts]
    for kind in (False, True):
        rows = [row for row, pair in enumerate(pairs) if pair is kind]
        for start in range(0, len(rows), BATCH):
            yield rows[start : start + BATCH]


def _ask(model: Any, encoding: Any, made: RawModel) -> _Asked:
    """Run transformers' model on a batch."""
    arrays = {
        name: value.float().numpy()
        for name, value in model(**encoding).items()
        if hasattr(value, "float")
    }
    return _Asked(made, encoding, encoding["attention_mask"].numpy().astype(bool), arrays)


def _columns(texts: list[Text]) -> list[list[str]]:
    """Return the texts, and beside them their pairs if there are any."""
    if all(isinstance(text, str) for text in texts):
        return [[str(text) for text in texts]]
    return [[text[0] for text in texts], [text[1] for text in texts]]
