"""Links and directories that others put into a work directory lead no write and no deletion out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.artefact import Draft, Workspace, fingerprint
from penstock.errors import StorageError
from penstock.lease import Lease
from penstock.storage import atomic_file

CONFIG = {"a": 1}
PLACE = f"stage/{fingerprint('stage', 1, CONFIG, {})[:16]}"
"""Of the artefact that is made here, in the work directory."""

OTHER = 4242


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with a user's own files."""
    made = tmp_path / "home"
    (made / "papers").mkdir(parents=True)
    (made / "thesis").write_text("precious")
    (made / "papers" / "one").write_text("precious")
    return made


def untouched(home: Path) -> bool:
    names = sorted(path.relative_to(home).as_posix() for path in home.rglob("*"))
    return names == ["papers", "papers/one", "thesis"]


def make(work: Path) -> None:
    """Make an artefact, with the sweep of all that its manifest does not name."""
    Workspace(work).make("stage", 1, CONFIG, {}, _published)


def _published(draft: Draft):  # type: ignore[no-untyped-def]
    with atomic_file(draft.path / "papers" / "two") as sink:
        sink.write(b"2")
    draft.record("one", draft.adopt(["papers/two"]))
    return draft.publish(["one"], {})


def plant(work: Path, place: str, target: Path, owner: int | None = None) -> Path:
    link = work / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    if owner is not None:
        os.chown(link, owner, owner, follow_symlinks=False)
    return link


def test_an_artefacts_link_to_a_users_own_files_deletes_none(tmp_path: Path, home: Path) -> None:
    """They were the leftovers that the sweep of `publish` deletes."""
    link = plant(tmp_path / "work", PLACE, home)
    with pytest.raises(StorageError) as info:
        make(tmp_path / "work")
    assert (info.value.file, untouched(home)) == (str(link), True)


@pytest.mark.parametrize("name", ["papers", "records", "model"])
def test_a_link_in_an_unfinished_artefact_is_not_written_through(
    tmp_path: Path, home: Path, name: str
) -> None:
    """As `work/run/NAME/model`, through which an export overwrote another model."""
    link = plant(tmp_path / "work", f"{PLACE}/{name}", home / "papers")
    with pytest.raises(StorageError) as info:
        make(tmp_path / "work")
    assert (info.value.file, untouched(home)) == (str(link), True)


@pytest.mark.parametrize("place", ["stage", PLACE, "lease"])
@pytest.mark.parametrize("empty", [True, False])
def test_no_link_of_another_user_is_followed(
    tmp_path: Path, home: Path, place: str, empty: bool
) -> None:
    if os.geteuid():
        pytest.skip("not run: needs root")
    target = tmp_path / "empty" if empty else home
    target.mkdir(exist_ok=True)
    link = plant(tmp_path / "work", place, target, owner=OTHER)
    with pytest.raises(StorageError) as info:
        if place == "lease":
            Lease(tmp_path / "work").hold()
        else:
            make(tmp_path / "work")
    assert info.value.file == str(link) and str(OTHER) in (info.value.got or "")
    assert untouched(home) and not (empty and any(target.iterdir()))


@pytest.mark.parametrize("place", ["stage", PLACE, f"{PLACE}/papers", "lease"])
def test_no_directory_of_another_user_is_used(tmp_path: Path, place: str) -> None:
    """He can exchange what is in it at any moment."""
    if os.geteuid():
        pytest.skip("not run: needs root")
    planted = tmp_path / "work" / place
    planted.mkdir(parents=True)
    os.chown(planted, OTHER, OTHER)
    with pytest.raises(StorageError) as info:
        if place == "lease":
            Lease(tmp_path / "work").hold()
        else:
            make(tmp_path / "work")
    assert info.value.file == str(planted) and not any(planted.iterdir())


def test_a_users_own_links_to_other_disks_are_followed(tmp_path: Path) -> None:
    """The work directory, a stage, and the place of an artefact."""
    disk = tmp_path / "disk"
    for name in ("work", "stage", "artefact"):
        (disk / name).mkdir(parents=True)
    (tmp_path / "work").symlink_to(disk / "work")
    plant(tmp_path / "work", "stage", disk / "stage")
    plant(tmp_path / "work", PLACE, disk / "artefact")
    make(tmp_path / "work")
    assert (disk / "artefact" / "papers" / "two").read_bytes() == b"2"
    assert (disk / "artefact" / "manifest.json").exists()
