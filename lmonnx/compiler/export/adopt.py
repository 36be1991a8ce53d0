"""A folder that holds ONNX already (optimum's layout, or onnx/ with suffixes) → our graph file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from lmonnx.bundle.draft import Draft
from lmonnx.bundle.folder import is_plain_name
from lmonnx.bundle.manifest import GraphSpec, Precision, Task
from lmonnx.compiler.checkpoint import Checkpoint
from lmonnx.compiler.edits import subgraphs
from lmonnx.compiler.graph import load_graph, save_graph
from lmonnx.compiler.stage import MODEL_FILE
from lmonnx.errors import StageError, UnsupportedError

FOLDERS = ("onnx", ".")
# In the order in which they are taken where none is asked for; "" is float32.
SUFFIXES = ("", "int8", "uint8", "quantized", "qint8", "quint8", "q8", "O3", "O2", "O1", "fp32")
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
# By task, the sets of outputs of which one must be there whole: name → how many axes.
_TEXT_LOGITS = ({"logits": 2},)
_OUTPUTS: Mapping[Task, Sequence[Mapping[str, int]]] = {
    Task.TEXT_CLASSIFICATION: _TEXT_LOGITS,
    Task.ZERO_SHOT_CLASSIFICATION: _TEXT_LOGITS,
    Task.TEXT_RANKING: _TEXT_LOGITS,
    Task.TOKEN_CLASSIFICATION: ({"logits": 3},),
    Task.QUESTION_ANSWERING: ({"start_logits": 2, "end_logits": 2},),
    Task.FILL_MASK: ({"logits": 3},),
    Task.FEATURE_EXTRACTION: (
        {"last_hidden_state": 3},
        {"token_embeddings": 3},
        {"sentence_embedding": 2},
    ),
}
_QUANTIZED = {
    "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "QLinearMatMul", "QAttention", "MatMulNBits",
}  # fmt: skip
_NEWEST_OPSET, _NEWEST_IR = 20, 10


def find_graphs(checkpoint: Checkpoint, stems: Sequence[str] = ("model",)) -> dict[str, Path]:
    """Return the ONNX files that may be adopted: suffix → path, the best first."""
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in _candidates(checkpoint.path, stems, suffix):
            found.setdefault(suffix, path)
    return found


def _candidates(folder: Path, stems: Sequence[str], suffix: str) -> Iterator[Path]:
    for place in FOLDERS:
        for stem in stems:
            path = folder / place / f"{stem}{'_' if suffix else ''}{suffix}.onnx"
            if path.is_file():
                yield path


def adopt_graph(
    checkpoint: Checkpoint, task: Task, draft: Draft, variant: str | None
) -> tuple[GraphSpec, Precision]:
    """Copy an ONNX file into the draft with its weights aligned outside it.

    Args:
        checkpoint: The folder that holds it.
        task: What it must give; its outputs keep their names.
        draft: Where it goes.
        variant: The suffix after `model_`; None takes float32, then int8.

    Raises:
        UnsupportedError: There is no such file, or its inputs and outputs are not the task's.
        StageError: The file is damaged or takes weights from outside the folder.
    """
    path = pick_graph(checkpoint, variant)
    model = read_graph(checkpoint, path)
    _check(model, task, path)
    with damage_told(path):
        spec = save_graph(model, path.parent, draft.file(MODEL_FILE), MODEL_FILE)
    return spec, precision_of(model, spec)


def read_graph(checkpoint: Checkpoint, path: Path) -> onnx.ModelProto:
    """Read a graph of a folder without the weights outside it, once those are seen to be there.

    Raises:
        StageError: The file is damaged or takes weights from outside the folder.
    """
    try:
        model = load_graph(path)
    except (DecodeError, ValueError) as error:
        raise StageError(f"{path} is not an ONNX graph ({error}); fetch it again") from error
    for tensor in _tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                _check_external(checkpoint.path, path, entry.value)
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield the constants of a graph and of the graphs inside it."""
    yield from graph.initializer
    for inner in subgraphs(graph.node):
        yield from _tensors(inner)


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Say of which file a weight is damaged."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise StageError(f"a weight of {path} is damaged ({error}); fetch it again") from error


def precision_of(model: onnx.ModelProto, spec: GraphSpec) -> Precision:
    """Return the narrowest type of a graph's weights."""
    if any(_bits(node) == 4 for node in model.graph.node):
        return Precision.INT4
    if _QUANTIZED & spec.operators.keys():
        return Precision.INT8
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return Precision.FLOAT16 if halves else Precision.FLOAT32


def _bits(node: onnx.NodeProto) -> int | None:
    return next((a.i for a in node.attribute if a.name == "bits"), None)


def _check_external(folder: Path, path: Path, location: str) -> None:
    if not is_plain_name(location):
        raise StageError(f"{path} takes weights from {location!r:.200}, outside its folder")
    data = (path.parent / location).resolve()
    # A hub cache links snapshots/<commit>/<file> to blobs/<hash>.
    homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    if not any(data.is_relative_to(home) for home in homes):
        raise StageError(f"{path} takes weights from {location}, a link out of its folder")
    if not data.is_file():
        raise StageError(f"{path} needs {location} beside it, which is missing; fetch it again")


def pick_graph(
    checkpoint: Checkpoint, variant: str | None, stems: Sequence[str] = ("model",)
) -> Path:
    """Return the ONNX file to adopt: of a variant, or else the best there is.

    Raises:
        UnsupportedError: There is none; the message lists what is there.
    """
    found = find_graphs(checkpoint, stems)
    if variant is None and found:
        return next(iter(found.values()))
    if variant is not None:
        for path in _candidates(checkpoint.path, stems, variant.removeprefix("_")):
            return path
    there = ", ".join(path.name for path in found.values()) or "none"
    raise UnsupportedError(
        f"{checkpoint.repo} has no model{f'_{variant}' if variant else ''}.onnx to adopt "
        f"(found: {there})"
    )


def _check(model: onnx.ModelProto, task: Task, path: Path) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    taken = [value for value in model.graph.input if value.name not in weights]
    inputs = {value.name for value in taken}
    given = any(_gives(model, outputs) for outputs in _OUTPUTS[task])
    if not {"input_ids", "attention_mask"} <= inputs <= _INPUTS or not given:
        wanted = (_spell(outputs) for outputs in _OUTPUTS[task])
        outputs = {value.name: _axes(value) for value in model.graph.output}
        raise UnsupportedError(
            f"{path.name} has the inputs {', '.join(sorted(inputs))} and the outputs "
            f"{_spell(outputs)}; {task} takes {', '.join(sorted(_INPUTS))} "
            f"and gives {' or '.join(wanted)}"
        )
    if any(value.type.tensor_type.elem_type != TensorProto.INT64 for value in taken):
        raise UnsupportedError(f"{path.name} takes ids that are not int64; export it again")
    check_versions(model, path)


def check_versions(model: onnx.ModelProto, path: Path) -> None:
    """Refuse an opset that not every client of a bundle reads.

    Raises:
        UnsupportedError: It is newer.
    """
    opset = max((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0)
    if not 0 < opset <= _NEWEST_OPSET:
        raise UnsupportedError(
            f"{path.name} is of opset {opset}, a bundle's newest is {_NEWEST_OPSET}; "
            "export it from the checkpoint instead"
        )
    model.ir_version = min(model.ir_version, _NEWEST_IR)


def _gives(model: onnx.ModelProto, wanted: Mapping[str, int]) -> bool:
    """Say whether all of `wanted` are outputs, with as many axes where the graph states them."""
    axes = {value.name: _axes(value) for value in model.graph.output}
    return all(name in axes and axes[name] in (None, count) for name, count in wanted.items())


def _axes(value: onnx.ValueInfoProto) -> int | None:
    tensor = value.type.tensor_type
    return len(tensor.shape.dim) if tensor.HasField("shape") else None


def _spell(outputs: Mapping[str, int | None]) -> str:
    return " and ".join(
        name if axes is None else f"{name} ({axes} axes)" for name, axes in outputs.items()
    )


def max_positions(checkpoint: Checkpoint) -> int:
    """Return how many tokens the model takes, from whichever field states it; 512 where none."""
    config = checkpoint.config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        rows = config.get(name)
        if type(rows) is int and rows > 0:
            pad = config.get("pad_token_id")
            if checkpoint.architecture in _AFTER_PADDING and isinstance(pad, int):
                rows -= pad + 1
            return int(rows)
    return 512


# Their positions start after the padding id.
_AFTER_PADDING = {
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip
