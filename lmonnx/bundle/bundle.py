"""A bundle: a folder with lmonnx.json, opened only after every check has passed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from lmonnx.bundle.external import INT8, external_locations, outside_constants
from lmonnx.bundle.folder import check_file, contained
from lmonnx.bundle.manifest import MANIFEST, GraphSpec, Manifest
from lmonnx.errors import BundleError

_MANIFEST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked folder and its manifest; nothing in it is ever edited."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Self:
        """Open a folder that a stage has written.

        Args:
            path: The bundle's folder.
            verify: Hash every file, the manifest too, about 1 s a GB; sizes, names and links are
                always checked.

        Raises:
            BundleError: There is no manifest, it is of a newer format, or a file is missing,
                changed, linked, or named outside the folder.
        """
        root = Path(path)
        try:
            return cls(root, _checked_manifest(root, verify=verify))
        except OSError as error:
            raise BundleError(
                f"{error.filename or root} cannot be read: {error.strerror}"
            ) from error

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists."""
        return self.path / name

    @property
    def bytes(self) -> int:
        """Size of all files that the manifest lists, in bytes."""
        return sum(info.bytes for info in (self.manifest.files or {}).values())


def _checked_manifest(root: Path, *, verify: bool) -> Manifest:
    manifest = Manifest.from_json(_read_manifest(root), str(root / MANIFEST))
    if verify and not manifest.is_intact():
        raise BundleError(
            f"{root / MANIFEST} is not as it was written (its checksum differs); "
            "copy or export the bundle again"
        )
    files = manifest.files or {}
    for name, info in files.items():
        check_file(root, name, info, verify=verify)
    text = manifest.text
    slots = [spec for spec in (text.source, text.target) if spec is not None]
    named = {graph.file for graph in manifest.graphs.values()}
    named |= {spec.file for spec in slots} | {spec.id_map for spec in slots if spec.id_map}
    if manifest.embedding is not None:
        named |= {dense.file for dense in manifest.embedding.dense}
    if manifest.generation is not None:
        named |= manifest.generation.files
    for name in named:
        contained(root, name)
    if unlisted := sorted(named - files.keys()):
        raise BundleError(f"{root / MANIFEST} uses {unlisted[0]} but lists no hash for it")
    for graph in manifest.graphs.values():
        # onnxruntime reads other formats by their ending, which may name files in other ways.
        if not graph.file.endswith(".onnx"):
            raise BundleError(f"{root / graph.file} is named as a graph and is no .onnx file")
        _check_weights(root, graph, set(files))
    return manifest


def _read_manifest(root: Path) -> str:
    path = root / MANIFEST
    if not path.is_file():
        raise BundleError(f"{root} has no {MANIFEST}; make a bundle with `lmonnx export`")
    if path.is_symlink() or path.stat().st_size > _MANIFEST_BYTES:
        raise BundleError(f"{path} is a link or larger than 16 MiB; a manifest is neither")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8 text; export the bundle again") from error


def _check_weights(root: Path, graph: GraphSpec, listed: set[str]) -> None:
    folder, path = PurePosixPath(graph.file).parent, root / graph.file
    made_of = {file for weights in graph.made or () for file in weights.files}
    for location in external_locations(path) | made_of:
        name = (folder / location).as_posix()
        contained(root, name)
        if name not in listed:
            raise BundleError(f"{path} takes weights from {name}, which has no hash")
    if graph.made:
        held = outside_constants(path)
        for weights in graph.made:  # onnxruntime checks nothing of what it is handed
            if held.get(weights.name) != (INT8, weights.shape):
                raise BundleError(
                    f"{path} has no int8 matrix {weights.name!a:.60} of the shape that is made of "
                    "it; make the bundle again"
                )
