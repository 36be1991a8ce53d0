"""What makes one vector of a text's: pooling, dense layers, norm and prompts → the manifest's."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.manifest import Dense, EmbeddingSpec, GraphSpec, Pooling, Similarity
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.checkpoint.weights import Weights, open_weights
from lmonnx.compiler.export.native.decoders import DECODERS
from lmonnx.compiler.export.sentence_transformers import (
    MODULES,
    SETTINGS,
    Module,
    pooling_modes,
    read_modules,
    transformer_file,
    transformer_settings,
)
from lmonnx.errors import StageError, UnsupportedError
from lmonnx.runtime.pipelines.feature_extraction import TEXT_OUTPUTS, TOKEN_OUTPUTS

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# By the last name of torch's class; an absent one is torch's Tanh.
_ACTIVATIONS = {
    "Tanh": "tanh",
    "Identity": "identity",
    "ReLU": "relu",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
}
# Dropout does nothing where nothing is trained, and may stand anywhere.
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
_ORDER = re.compile("Transformer( Pooling( Dense)*( Normalize)*)?")


def export_embedding(
    checkpoint: Checkpoint, draft: Draft, graph: GraphSpec, *, pooling: str | None = None
) -> EmbeddingSpec:
    """Write the dense layers into the draft and say how outputs become one vector a text.

    A checkpoint without modules.json is pooled by the mean, as sentence-transformers makes of it,
    and a decoder by its last token.
    Its files go along, so that the bundle loads there too, unless `pooling` contradicts them.

    Args:
        checkpoint: Where sentence-transformers' files are.
        draft: Where the layers go.
        graph: Gives last_hidden_state or token_embeddings, or one sentence_embedding a text.
        pooling: Another pooling than the checkpoint's.

    Raises:
        UnsupportedError: A module, a mode or an activation is not built here.
        StageError: A file is missing, damaged or leads outside, or widths do not fit.
    """
    modules = read_modules(checkpoint)
    _check_order(modules, checkpoint)
    width = _width(checkpoint, graph)
    modes, include_prompt = _pooling(checkpoint, modules, graph, width, pooling)
    # A sentence_embedding is what comes out of all modules.
    pools = modes == (Pooling.NONE,)
    layers = [module for module in modules if module.kind == "Dense" and not pools]
    dense, width = _dense_layers(checkpoint, draft, layers, width * len(modes))
    if modules and pooling is None:
        _copy_files(checkpoint, draft, modules)
    settings = checkpoint.json_file(SETTINGS) or {} if modules else {}
    prompts, default = _prompts(settings)
    return EmbeddingSpec(
        pooling=modes,
        dimension=_dimension(settings, width),
        normalize=any(module.kind == "Normalize" for module in modules),
        dense=dense,
        similarity=_similarity(settings),
        prompts=prompts,
        default_prompt=default,
        include_prompt=include_prompt,
        lower_case=transformer_settings(checkpoint).get("do_lower_case") is True,
    )


def _check_order(modules: Sequence[Module], checkpoint: Checkpoint) -> None:
    where = f"{checkpoint.repo}/{MODULES}"
    for module in modules:
        if module.kind not in _KNOWN:
            raise UnsupportedError(
                f"{where}: the module {module.kind:.60} is not built here, only {', '.join(_KNOWN)}"
            )
    kinds = [module.kind for module in modules if module.kind != "Dropout"]
    if modules and not _ORDER.fullmatch(" ".join(kinds)):
        raise UnsupportedError(f"{where}: {' → '.join(kinds):.200} is not built here")
    if modules and modules[0].path:
        raise UnsupportedError(
            f"{where} keeps the encoder in {modules[0].path:.60}; move its files beside {MODULES}"
        )
    for module in modules[1:]:
        _check_places(checkpoint, module)


def _check_places(checkpoint: Checkpoint, module: Module) -> None:
    """Refuse a module that reads or writes anything but the text's vector."""
    config = checkpoint.json_file(module.file(CONFIG)) or {} if module.path else {}
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, *TEXT_OUTPUTS):
            raise UnsupportedError(
                f"{module.file(CONFIG)}: {name} is {config[name]!r:.60}, which is not built here"
            )


def _width(checkpoint: Checkpoint, graph: GraphSpec) -> int:
    """Return how many numbers the graph gives a token or a text."""
    given = {output.name: output for output in graph.outputs}
    name = next((name for name in (*TOKEN_OUTPUTS, *TEXT_OUTPUTS) if name in given), None)
    if name is None:
        raise UnsupportedError(
            f"the graph gives {', '.join(given) or 'nothing'}; an embedder gives one of "
            f"{', '.join((*TOKEN_OUTPUTS, *TEXT_OUTPUTS))}"
        )
    last = given[name].shape[-1] if given[name].shape else None
    for width in (last, checkpoint.config.get("hidden_size"), checkpoint.config.get("dim")):
        if type(width) is int and width > 0:
            return width
    raise StageError(f"neither the graph nor {CONFIG} says how wide {name} is; state hidden_size")


def _pooling(
    checkpoint: Checkpoint,
    modules: Sequence[Module],
    graph: GraphSpec,
    width: int,
    asked: str | None,
) -> tuple[tuple[Pooling, ...], bool]:
    """Return the modes, and whether a prompt's tokens count."""
    pools = not any(output.name in TOKEN_OUTPUTS for output in graph.outputs)
    module = next((module for module in modules if module.kind == "Pooling"), None)
    config: Mapping[str, Any] = {}
    if module is not None:
        config = _config(checkpoint, module)
        stated = config.get("embedding_dimension", config.get("word_embedding_dimension"))
        if not pools and type(stated) is int and stated != width:
            raise StageError(
                f"{module.file(CONFIG)} is for vectors of {stated}, the graph gives {width}; "
                "they are not of one model"
            )
    include_prompt = config.get("include_prompt") is not False
    if asked is not None:
        return (_asked(asked, pools=pools),), include_prompt
    if pools:
        return (Pooling.NONE,), True
    if module is not None:
        return pooling_modes(config, module.file(CONFIG)), include_prompt
    if modules:
        raise UnsupportedError(
            f"{checkpoint.repo}/{MODULES} lists no Pooling; name one of {', '.join(Pooling)}"
        )
    return (_usual(checkpoint),), True


def _asked(name: str, *, pools: bool) -> Pooling:
    known = [mode.value for mode in Pooling if (mode is Pooling.NONE) is pools]
    if name not in known:
        raise UnsupportedError(f"pooling is {name!r:.40}, for this graph only {', '.join(known)}")
    return Pooling(name)


def _usual(checkpoint: Checkpoint) -> Pooling:
    """Return what sentence-transformers pools a model by that states nothing.

    Of a decoder's tokens the last alone has seen the whole text, whatever class was saved.
    """
    classes = checkpoint.config.get("architectures") or [""]
    causal = str(classes[0]).endswith("ForCausalLM") and checkpoint.config.get("is_causal", True)
    return Pooling.LAST if causal or checkpoint.architecture in DECODERS else Pooling.MEAN


def _config(checkpoint: Checkpoint, module: Module) -> dict[str, Any]:
    config = checkpoint.json_file(module.file(CONFIG))
    if config is None:
        raise StageError(
            f"{checkpoint.repo} has no {module.file(CONFIG)}, which {MODULES} names; download it"
        )
    return config


def _dense_layers(
    checkpoint: Checkpoint, draft: Draft, modules: Sequence[Module], width: int
) -> tuple[tuple[Dense, ...], int]:
    """Write each layer as one (inputs + 1, outputs) array; return them and the last's width."""
    layers = []
    for index, module in enumerate(modules):
        config = _config(checkpoint, module)
        weight = _weight(checkpoint, module, config, width)
        file = f"embedding/dense_{index}.npy"
        np.save(draft.file(file), weight, allow_pickle=False)
        layers.append(Dense(file, _activation(config, module)))
        width = weight.shape[1]
    return tuple(layers), width


def _weight(
    checkpoint: Checkpoint, module: Module, config: Mapping[str, Any], width: int
) -> np.ndarray[Any, Any]:
    if config.get("use_residual"):
        raise UnsupportedError(f"{module.file(CONFIG)}: use_residual is not built here")
    weights: Weights = open_weights(checkpoint.path / module.path)
    matrix = weights.read("linear.weight")  # (outputs, inputs)
    shape = matrix.shape
    bias = np.zeros(shape[:1], np.float32)
    if config.get("bias", True):
        bias = weights.read("linear.bias")
    if matrix.ndim != 2 or bias.shape != shape[:1] or matrix.dtype != np.float32:
        raise StageError(f"{module.path}: linear.weight {shape} and linear.bias {bias.shape} "
                         "are no layer; download it again")  # fmt: skip
    if shape[1] != width:
        raise StageError(f"{module.path} takes vectors of {shape[1]}, is given {width}")
    return np.concatenate([matrix.T, bias[None]]).astype(np.float32)


def _activation(config: Mapping[str, Any], module: Module) -> str:
    path = config.get("activation_function", "torch.nn.Tanh")
    name = path.rpartition(".")[2] if isinstance(path, str) and path.startswith("torch.") else ""
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise UnsupportedError(
            f"{module.file(CONFIG)}: the activation {path!r:.100} is none of torch's {known}"
        )
    return _ACTIVATIONS[name]


def _copy_files(checkpoint: Checkpoint, draft: Draft, modules: Sequence[Module]) -> None:
    names = [MODULES, SETTINGS, transformer_file(checkpoint) or ""]
    for module in modules[1:]:
        if not module.path:
            continue
        names.append(module.file(CONFIG))
        if module.kind == "Dense":
            stored = (module.file(name) for name in _WEIGHTS)
            names += [name for name in stored if (checkpoint.path / name).is_file()][:1]
    for name in names:
        if name and (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, draft.file(name))


def _prompts(settings: Mapping[str, Any]) -> tuple[dict[str, str] | None, str | None]:
    """Return the prompts by name, and the name of the one that is used unasked."""
    stored = settings.get("prompts") or {}
    if not isinstance(stored, dict) or not all(isinstance(v, str | None) for v in stored.values()):
        raise StageError(f"{SETTINGS}: prompts are no texts by name; download it again")
    prompts = {name: text or "" for name, text in stored.items()}
    default = settings.get("default_prompt_name")
    if default is not None and default not in prompts:
        known = ", ".join(prompts) or "none"
        raise StageError(f"{SETTINGS}: default_prompt_name is {default!r:.60}, prompts are {known}")
    return prompts or None, default


def _similarity(settings: Mapping[str, Any]) -> Similarity:
    name = settings.get("similarity_fn_name") or Similarity.COSINE
    try:
        return Similarity(name)
    except ValueError as error:
        known = ", ".join(Similarity)
        raise UnsupportedError(
            f"{SETTINGS}: similarity_fn_name is {name!r:.60}, none of {known}"
        ) from error


def _dimension(settings: Mapping[str, Any], width: int) -> int:
    """Return how many numbers are kept of a vector."""
    cut = settings.get("truncate_dim")
    if cut is None:
        return width
    if type(cut) is not int or cut < 1:
        raise StageError(f"{SETTINGS}: truncate_dim is {cut!r:.40}, must be a positive number")
    return min(cut, width)
