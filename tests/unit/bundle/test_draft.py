"""Writing a bundle: the target is absent, old or new, and whole in every case."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lmonnx.bundle import draft as drafts
from lmonnx.bundle.bundle import Bundle
from lmonnx.bundle.draft import Draft, draft_at
from lmonnx.bundle.manifest import MANIFEST
from lmonnx.errors import BundleError, StageError

pytest.importorskip("fcntl")


def nothing(_: Draft) -> None:
    """Do nothing."""


def write(
    target: Path,
    source: Path,
    *,
    force: bool = False,
    mark: str = "",
    meanwhile: Callable[[Draft], object] = nothing,
) -> None:
    """Write a copy of the bundle `source` whose model card says `mark`."""
    bundle = Bundle.open(source)
    with draft_at(target, force=force) as draft:
        draft.copy(bundle, bundle.manifest.files)
        draft.file("README.md").write_text(mark)
        draft.seal(bundle.manifest)
        meanwhile(draft)


def mark(target: Path) -> str:
    return Bundle.open(target).file("README.md").read_text()


def siblings(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "bundle"


def leftover(target: Path, kind: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f".{target.name}.{kind}-{'0' * 12}"


def test_a_draft_becomes_the_target_and_leaves_nothing_beside_it(tiny_bundle, target):
    write(target, tiny_bundle, mark="first")
    assert mark(target) == "first"
    assert siblings(target) == []


def test_the_target_is_not_there_before_the_block_ends(tiny_bundle, target):
    write(target, tiny_bundle, meanwhile=lambda _: pytest.fail("early") if target.exists() else 0)
    assert target.exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_failure_leaves_the_old_bundle(tiny_bundle, target, force):
    write(target, tiny_bundle, mark="old")
    error = StageError if not force else KeyboardInterrupt  # refused at the door, or fallen ill
    with pytest.raises(error), draft_at(target, force=force):
        raise KeyboardInterrupt
    assert mark(target) == "old"
    assert siblings(target) == []


def test_an_existing_bundle_is_replaced_only_with_force(tiny_bundle, target):
    write(target, tiny_bundle, mark="old")
    with pytest.raises(StageError, match="exists; name another target or pass --force"):
        write(target, tiny_bundle, mark="new")
    assert mark(target) == "old"
    write(target, tiny_bundle, force=True, mark="new")
    assert mark(target) == "new"
    assert siblings(target) == []


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link", "link to a bundle"])
def test_what_is_no_bundle_is_not_replaced(tiny_bundle, copied_bundle, target, kind):
    target.parent.mkdir()
    if kind == "file":
        target.write_text("precious")
    elif kind == "folder":
        target.mkdir()
        (target / "precious.txt").touch()
    else:
        places = {"link": target.parent, "link to a bundle": copied_bundle}
        target.symlink_to(places.get(kind, target.parent / "nowhere"))
    with pytest.raises(StageError, match="is no bundle, so --force does not replace it"):
        write(target, tiny_bundle, force=True)
    assert os.path.lexists(target)
    assert Bundle.open(copied_bundle)


def test_an_empty_folder_is_replaced_with_force(tiny_bundle, target):
    target.mkdir(parents=True)
    write(target, tiny_bundle, force=True, mark="new")
    assert mark(target) == "new"


def test_a_target_that_comes_while_the_stage_runs_is_kept(tiny_bundle, target):
    with pytest.raises(StageError, match="exists"):
        write(target, tiny_bundle, meanwhile=lambda _: (target / "other").mkdir(parents=True))
    assert (target / "other").exists()


def test_a_stage_that_seals_nothing_is_a_fault(target):
    with pytest.raises(StageError, match="ended without a manifest"), draft_at(target):
        pass
    assert not target.exists()


def test_a_draft_that_cannot_be_opened_never_becomes_the_target(tiny_bundle, target):
    write(target, tiny_bundle, mark="old")
    with pytest.raises(BundleError, match=r"has .* bytes"):
        write(
            target,
            tiny_bundle,
            force=True,
            meanwhile=lambda draft: draft.file("config.json").write_text("after the seal"),
        )
    assert mark(target) == "old"
    assert siblings(target) == []


def test_the_old_bundle_is_put_back_when_the_new_one_cannot_take_its_place(
    tiny_bundle, target, monkeypatch
):
    write(target, tiny_bundle, mark="old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if ".draft-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StageError, match="No space left on device"):
        write(target, tiny_bundle, force=True, mark="new")
    assert mark(target) == "old"
    assert siblings(target) == []


def test_a_dead_draft_is_swept(tiny_bundle, target):
    leftover(target, "draft").mkdir()
    (leftover(target, "draft") / "half").touch()
    write(target, tiny_bundle)
    assert siblings(target) == []


def test_a_bundle_moved_aside_by_a_killed_run_is_put_back(tiny_bundle, target):
    write(target, tiny_bundle, mark="old")
    target.rename(leftover(target, "aside"))
    with pytest.raises(StageError, match="exists"):
        write(target, tiny_bundle, mark="new")
    assert mark(target) == "old"
    assert siblings(target) == []


def test_a_bundle_moved_aside_is_swept_when_its_successor_stands(tiny_bundle, target):
    write(target, tiny_bundle, mark="new")
    write(leftover(target, "aside"), tiny_bundle, mark="old")
    write(target, tiny_bundle, force=True, mark="newest")
    assert mark(target) == "newest"
    assert siblings(target) == []


def test_a_half_deleted_bundle_is_never_put_back(tiny_bundle, target, monkeypatch):
    write(target, tiny_bundle, mark="old")
    monkeypatch.setattr(drafts.shutil, "rmtree", lambda *_, **__: None)  # killed while deleting
    write(target, tiny_bundle, force=True, mark="new")
    monkeypatch.undo()
    (aside,) = (target.parent / name for name in siblings(target) if ".aside-" in name)
    assert not (aside / MANIFEST).exists()


@pytest.mark.parametrize("name", ["draft-notes", "draft-0000", "aside-", f"draft-{'0' * 13}"])
def test_a_folder_that_only_looks_like_a_leftover_is_kept(tiny_bundle, target, name):
    target.parent.mkdir()
    folder = target.parent / f".{target.name}.{name}"
    folder.mkdir()
    (folder / "precious").touch()
    write(target, tiny_bundle)
    assert (folder / "precious").exists()


def test_a_target_named_with_signs_of_a_pattern_has_its_own_leftovers(tiny_bundle, tmp_path):
    (tmp_path / ".abc.draft-000000000000").mkdir()
    write(tmp_path / "a.c", tiny_bundle)
    assert siblings(tmp_path / "a.c") == [".abc.draft-000000000000"]


def test_a_second_writer_is_refused_and_harms_nothing(tiny_bundle, target):
    bundle = Bundle.open(tiny_bundle)
    with draft_at(target) as draft:
        draft.copy(bundle, bundle.manifest.files)
        with pytest.raises(StageError, match="another process is writing"):
            write(target, tiny_bundle)
        draft.seal(bundle.manifest)
    assert Bundle.open(target)


def test_a_writer_in_another_process_is_refused_while_this_one_writes(tiny_bundle, target):
    code = (
        "from pathlib import Path; from lmonnx.bundle.draft import draft_at\n"
        f"with draft_at(Path({str(target)!r})): pass"
    )
    with suppress(StageError), draft_at(target):
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process is writing" in ran.stderr


def test_a_place_that_cannot_be_written_is_one_line(tiny_bundle, tmp_path):
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "bundle", tmp_path / ("n" * 300)):
        with pytest.raises(StageError, match="cannot write") as caught:
            write(target, tiny_bundle)
        assert "\n" not in str(caught.value)


def test_the_manifest_lists_every_file_and_not_itself(tiny_bundle, target):
    bundle = Bundle.open(tiny_bundle)
    with draft_at(target) as draft:
        draft.copy(bundle, bundle.manifest.files)
        draft.file("deep/er/file.txt").write_text("x")
        draft.seal(bundle.manifest)
    listed = json.loads((target / MANIFEST).read_text())["files"]
    found = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    assert set(listed) == found - {MANIFEST}
    assert "deep/er/file.txt" in listed


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("place", [".", "..", "inside", "deep/inside"])
def test_a_target_at_around_or_inside_its_source_is_refused(copied_bundle, place, force):
    before = sorted(copied_bundle.rglob("*"))
    with (
        pytest.raises(StageError, match="name a"),
        draft_at(copied_bundle / place, source=copied_bundle, force=force),
    ):
        pass
    assert sorted(copied_bundle.rglob("*")) == before


def test_a_checkpoint_may_hold_its_bundle(tmp_path):
    with (
        pytest.raises(StageError, match="ended without a manifest"),
        draft_at(tmp_path / "bundle", source=tmp_path),
    ):
        pass
