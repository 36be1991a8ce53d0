"""Opening a bundle from outside: all that a stranger may have done to it is one clear line."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.external import external_locations
from lmonnx.bundle.folder import contained, sha256
from lmonnx.bundle.manifest import MANIFEST, checksum_of
from lmonnx.errors import BundleError

GRAPH, WEIGHTS, TOKENIZER = "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"
FILES = (GRAPH, WEIGHTS, TOKENIZER, "README.md", "config.json", "tokenizer_config.json")
OUTSIDE = (
    "../secret", "a/../../secret", "/etc/passwd", "..", ".", "", "./a", "a//b", "a/", "a\\b",
    "..\\secret", "C:x", "//", "a\0b", "a\nb", "\x1b[31m", "\ud800", "\u2028", "//host/x",
)  # fmt: skip


def rewrite(root: Path, change) -> None:
    """Change the manifest as a forger would."""
    stored = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    change(stored)
    stored["checksum"] = checksum_of(stored)
    (root / MANIFEST).write_text(json.dumps(stored), encoding="utf-8")


def rehash(root: Path, *names: str) -> None:
    """State the size and hash that files have now."""
    stated = {n: {"sha256": sha256(root / n), "bytes": (root / n).stat().st_size} for n in names}
    rewrite(root, lambda stored: stored["files"].update(stated))


def refused(root: Path, said: str, *, verify: bool = True) -> None:
    """Assert one clear line."""
    with pytest.raises(BundleError, match=said) as caught:
        Bundle.open(root, verify=verify)
    assert str(caught.value).isprintable()


def test_a_whole_bundle_opens_with_its_size(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)
    assert bundle.bytes == sum((tiny_bundle / name).stat().st_size for name in FILES)
    assert bundle.manifest.graphs["model"].file == GRAPH


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_in_every_file(copied_bundle, name):
    data = bytearray((copied_bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied_bundle / name).write_bytes(data)
    refused(copied_bundle, r"sha256 differs.*copy or export the bundle again")
    if name != GRAPH:
        Bundle.open(copied_bundle, verify=False)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_shortened_file_is_found_even_unverified(copied_bundle, name, verify):
    path = copied_bundle / name
    path.write_bytes(path.read_bytes()[:-1])
    refused(copied_bundle, f"{name} has .* bytes, the manifest says", verify=verify)
    path.unlink()
    refused(copied_bundle, f"{name} is missing", verify=verify)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_listed_name_that_leads_outside_is_refused(copied_bundle, name, verify):
    info = {"sha256": "0" * 64, "bytes": 1}
    rewrite(copied_bundle, lambda stored: stored["files"].update({name: info}))
    refused(copied_bundle, "is not a path inside the bundle", verify=verify)


@pytest.mark.parametrize("name", [n for n in OUTSIDE if n != "a//b"])
@pytest.mark.parametrize("slot", ["file", "id_map"])
def test_a_tokenizer_outside_is_refused(copied_bundle, name, slot):
    if slot == "id_map" and not name:
        return  # an empty id_map names nothing
    rewrite(copied_bundle, lambda stored: stored["text"]["source"].update({slot: name}))
    refused(copied_bundle, "is not a path inside the bundle")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_graph_outside_is_refused(copied_bundle, name):
    rewrite(copied_bundle, lambda stored: stored["graphs"]["model"].update(file=name))
    refused(copied_bundle, "is not a path inside the bundle")


def test_a_used_file_without_a_hash_is_refused(copied_bundle):
    rewrite(copied_bundle, lambda stored: stored["files"].pop(TOKENIZER))
    refused(copied_bundle, "uses tokenizer.json but lists no hash for it")
    rewrite(copied_bundle, lambda stored: stored.pop("files"))
    refused(copied_bundle, "lists no hash for it")


def test_a_graph_that_is_no_onnx_file_is_refused(copied_bundle):
    # onnxruntime would read another format, and its external files, by the ending.
    (copied_bundle / GRAPH).rename(copied_bundle / "model.ort")
    rehash(copied_bundle, "model.ort")
    rewrite(copied_bundle, lambda stored: stored["files"].pop(GRAPH))
    rewrite(copied_bundle, lambda stored: stored["graphs"]["model"].update(file="model.ort"))
    refused(copied_bundle, r"is no \.onnx file")


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_file_that_is_a_link_is_refused(copied_bundle, tmp_path, name, verify):
    shutil.move(copied_bundle / name, tmp_path / "moved")
    (copied_bundle / name).symlink_to(tmp_path / "moved")
    refused(copied_bundle, "link", verify=verify)


def test_a_folder_that_is_a_link_is_refused(copied_bundle, tmp_path):
    shutil.move(copied_bundle / "onnx", tmp_path / "onnx")
    (copied_bundle / "onnx").symlink_to(tmp_path / "onnx", target_is_directory=True)
    refused(copied_bundle, "onnx is a symbolic link")


def test_a_bundle_may_be_reached_through_a_link(tiny_bundle, tmp_path):
    (tmp_path / "link").symlink_to(tiny_bundle)
    assert Bundle.open(tmp_path / "link").manifest.head is not None


def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_refused(copied_bundle):
    (copied_bundle / TOKENIZER).unlink()
    (copied_bundle / TOKENIZER).mkdir()
    refused(copied_bundle, "is not a plain file")
    (copied_bundle / TOKENIZER).rmdir()
    os.mkfifo(copied_bundle / TOKENIZER)
    refused(copied_bundle, "is not a plain file")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_is_refused(copied_bundle, data):
    (copied_bundle / MANIFEST).write_bytes(data)
    refused(copied_bundle, "is not (JSON|UTF-8)")


def test_a_manifest_of_a_newer_format_is_refused(copied_bundle):
    rewrite(copied_bundle, lambda stored: stored.update(format=2))
    refused(copied_bundle, "format 2.*install a newer lmonnx")


def test_a_manifest_above_16_mib_is_refused_unread(copied_bundle):
    os.truncate(copied_bundle / MANIFEST, 16 * 2**20 + 1)
    refused(copied_bundle, "larger than 16 MiB")


@pytest.mark.parametrize("path", ["nowhere", "file", "n" * 300, "a\0b", ""])
def test_a_path_without_a_bundle_is_one_line(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match=r"make a bundle|cannot be read"):
        Bundle.open(path)


def test_a_listed_name_that_is_too_long_is_one_line(copied_bundle):
    info = {"sha256": "0" * 64, "bytes": 1}
    rewrite(copied_bundle, lambda stored: stored["files"].update({"n" * 300: info}))
    refused(copied_bundle, "cannot be read: File name too long")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_graph_is_refused_though_its_hash_is_right(copied_bundle, share):
    import lmonnx

    data = (copied_bundle / GRAPH).read_bytes()
    (copied_bundle / GRAPH).write_bytes(data[: int(len(data) * share)])
    rehash(copied_bundle, GRAPH)
    with pytest.raises(BundleError, match=r"not a whole ONNX graph|cannot load"):
        lmonnx.load(copied_bundle)


# What a graph says of its weights, forged on the wire -----------------------------------------


def varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(key: bytes, value: bytes) -> bytes:
    return field(13, field(1, key) + field(2, value))


def external(location: bytes) -> bytes:
    return field(8, b"t") + entry(b"location", location)


TENSOR = external(b"../x")
PLACES = {
    "initializer": field(7, field(5, TENSOR)),
    "sparse values": field(7, field(15, field(1, TENSOR))),
    "sparse indices": field(7, field(15, field(2, TENSOR))),
    "attribute": field(7, field(1, field(5, field(5, TENSOR)))),
    "attribute list": field(7, field(1, field(5, field(10, TENSOR)))),
    "sparse attribute": field(7, field(1, field(5, field(22, field(1, TENSOR))))),
    "sparse attribute list": field(7, field(1, field(5, field(23, field(2, TENSOR))))),
    "subgraph": field(7, field(1, field(5, field(6, field(5, TENSOR))))),
    "subgraph list": field(7, field(1, field(5, field(11, field(5, TENSOR))))),
    "second graph": field(7, b"") + field(7, field(5, TENSOR)),
}


@pytest.mark.parametrize("data", PLACES.values(), ids=PLACES)
def test_a_location_is_found_wherever_a_tensor_may_stand(tmp_path, data):
    (tmp_path / "g.onnx").write_bytes(data)
    assert external_locations(tmp_path / "g.onnx") == {"../x"}


@pytest.mark.parametrize(
    "decoy",
    [b"\x08\x00", b"\x0d\0\0\0\0", b"\x10\x00", field(1, b"offset")],
    ids=["number as key", "float as key", "number as value", "key overridden before"],
)
def test_a_location_is_found_behind_fields_that_a_parser_skips(tmp_path, decoy):
    forged = field(1, b"location") + field(2, b"../x")
    last_wins = decoy + forged if decoy.startswith(field(1, b"")[:1]) else forged + decoy
    (tmp_path / "g.onnx").write_bytes(field(7, field(5, field(13, last_wins))))
    assert external_locations(tmp_path / "g.onnx") == {"../x"}


wire = st.one_of(
    st.builds(
        field, st.integers(1, 3), st.sampled_from([b"", b"location", b"offset", b"../x", b"y"])
    ),
    st.builds(lambda at, n: varint(at << 3) + varint(n), st.integers(1, 3), st.integers(0, 300)),
    st.builds(lambda at: varint(at << 3 | 5) + b"\0" * 4, st.integers(1, 3)),
)


@pytest.mark.compiler
@given(st.lists(st.lists(wire, max_size=5).map(b"".join), max_size=4))
def test_every_location_that_onnx_reads_is_found(tmp_path_factory, entries):
    onnx = pytest.importorskip("onnx")
    data = field(7, field(5, b"".join(field(13, entry) for entry in entries)))
    path = tmp_path_factory.mktemp("forged") / "g.onnx"
    path.write_bytes(data)
    (tensor,) = onnx.ModelProto.FromString(data).graph.initializer
    read = {entry.value for entry in tensor.external_data if entry.key == "location"}
    assert external_locations(path) == read


@pytest.mark.parametrize(
    ("location", "said"),
    [
        (b"../../secret", "not a path inside"),
        (b"/etc/passwd", "not a path inside"),
        (b"..\\secret", "not a path inside"),
        (b"other_data", "which has no hash"),
        (b"", "which has no hash"),
        (b"\xff", "not a whole ONNX graph"),
    ],
)
def test_weights_outside_or_unlisted_are_refused(copied_bundle, location, said):
    with (copied_bundle / GRAPH).open("ab") as file:
        file.write(field(7, field(5, external(location))))
    (copied_bundle / "onnx" / "other_data").touch()
    rehash(copied_bundle, GRAPH)
    refused(copied_bundle, said)
    refused(copied_bundle, said, verify=False)


def test_functions_in_a_graph_are_refused(copied_bundle):
    with (copied_bundle / GRAPH).open("ab") as file:
        file.write(field(25, b""))
    rehash(copied_bundle, GRAPH)
    refused(copied_bundle, "not a whole ONNX graph")


def test_a_graph_nested_too_deep_is_refused(tmp_path):
    graph = b""
    for _ in range(100):
        graph = field(1, field(5, field(6, graph)))  # a node's attribute holds the next graph
    (tmp_path / "g.onnx").write_bytes(field(7, graph))
    with pytest.raises(BundleError, match="not a whole ONNX graph"):
        external_locations(tmp_path / "g.onnx")


@given(st.binary(max_size=200))
@example(b"\xff" * 20)
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
def test_any_bytes_give_locations_or_our_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "g.onnx"
    path.write_bytes(data)
    with suppress(BundleError):
        assert all(isinstance(location, str) for location in external_locations(path))


@given(st.lists(st.sampled_from(["a", "b.c", "..", ".", "", "/", "\\", "é", " "]), max_size=5))
def test_a_contained_path_is_below_its_root(parts):
    root = Path("/nowhere/at/all")
    try:
        path = contained(root, "/".join(parts))
    except BundleError:
        return
    assert path != root
    assert Path(os.path.normpath(path)).is_relative_to(root)


def test_a_flipped_bit_of_the_manifest_is_refused_or_means_nothing(copied_bundle):
    whole = (copied_bundle / MANIFEST).read_bytes()
    wanted = Bundle.open(copied_bundle).manifest
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (copied_bundle / MANIFEST).write_bytes(flipped)
        with suppress(BundleError):
            assert Bundle.open(copied_bundle).manifest == wanted


def test_a_changed_label_is_refused(copied_bundle):
    path = copied_bundle / MANIFEST
    labels = Bundle.open(copied_bundle).manifest.head.labels
    path.write_text(path.read_text().replace(f'"{labels[0]}"', '"OTHER"'))
    refused(copied_bundle, "lmonnx.json is not as it was written")
    assert Bundle.open(copied_bundle, verify=False).manifest.head.labels[0] == "OTHER"
