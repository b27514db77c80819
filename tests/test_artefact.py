"""Artefacts: named by a fingerprint of their inputs, whole or absent, refused when changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

import penstock.artefact.draft as draft_module
from penstock.artefact import (
    FORMAT,
    Artefact,
    Draft,
    FileRecord,
    Workspace,
    canonical,
    fingerprint,
)
from penstock.errors import ArtefactError
from penstock.storage import atomic_file, sha256_file

CONFIG = {"b": 1, "a": [1.5, "é"]}
INPUTS = {"corpus": "f" * 64}


def write(draft: Draft, name: str, content: bytes, **facts: int) -> FileRecord:
    with atomic_file(draft.path / name) as sink:
        sink.write(content)
    return FileRecord.found(draft.path, name, **facts)


def finished(workspace: Workspace, content: bytes = b"data", stage: str = "stage") -> Artefact:
    draft = workspace.draft(stage, 1, CONFIG, INPUTS)
    draft.record("one", [write(draft, "x.bin", content, rows=3), write(draft, "y.bin", b"y")])
    return draft.publish(["one"], {"rows": 3})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.name.endswith(".tmp")]


# -- names ------------------------------------------------------------------------------------


def test_fingerprints_are_golden() -> None:
    """A change here makes every user's finished artefacts again."""
    text = b'["stage",1,{"a":[1.5,"\xc3\xa9"],"b":1},{"corpus":"' + b"f" * 64 + b'"}]'
    assert canonical(["stage", 1, CONFIG, INPUTS]) == text
    assert fingerprint("stage", 1, CONFIG, INPUTS) == hashlib.sha256(text).hexdigest()
    assert fingerprint("stage", 1, CONFIG, INPUTS) == GOLDEN


GOLDEN = "3ad32a6e9ca2bab7930fa16d39e405e178958fef3bfebcfba56f43de90d431b3"


def test_the_order_of_keys_is_no_part_of_a_name_and_everything_else_is() -> None:
    name = fingerprint("stage", 1, CONFIG, INPUTS)
    assert fingerprint("stage", 1, dict(reversed(CONFIG.items())), INPUTS) == name
    others = {
        fingerprint("other", 1, CONFIG, INPUTS),
        fingerprint("stage", 2, CONFIG, INPUTS),
        fingerprint("stage", 1, {**CONFIG, "c": None}, INPUTS),
        fingerprint("stage", 1, CONFIG, {"corpus": "e" * 64}),
        name,
    }
    assert len(others) == 5


def test_a_value_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint("stage", 1, {"a": float("nan")}, {})


def test_sha256_of_a_file_longer_than_a_read(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(content)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()


# -- atomic files -----------------------------------------------------------------------------


def test_an_atomic_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    with atomic_file(path) as sink:
        sink.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert [item.name for item in path.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_other(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as sink:
        sink.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["f"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with atomic_file(path) as one, atomic_file(path) as other:
        one.write(b"1" * 10)
        other.write(b"2" * 10)
    assert path.read_bytes() == b"1" * 10  # the last to finish, whole
    assert leftovers(tmp_path) == []


# -- drafts -----------------------------------------------------------------------------------


def test_a_published_artefact_reads_back(workspace: Workspace) -> None:
    made = finished(workspace)
    assert [record.path for record in made.files] == ["x.bin", "y.bin"]
    assert made.files[0] == FileRecord(
        path="x.bin", bytes=4, sha256=hashlib.sha256(b"data").hexdigest(), facts={"rows": 3}
    )
    assert made.facts == {"rows": 3}
    assert made.fingerprint == fingerprint("stage", 1, CONFIG, INPUTS)
    assert made.manifest["config"] == CONFIG and made.manifest["inputs"] == INPUTS
    assert made.named("x") == made.files[:1]
    made.verify()
    assert Artefact.open(made.path) == made


def test_the_digest_is_of_every_byte(workspace: Workspace, tmp_path: Path) -> None:
    one = finished(workspace)
    elsewhere = finished(Workspace(tmp_path / "elsewhere"))
    other = finished(Workspace(tmp_path / "other"), b"dat2")
    assert one.digest == elsewhere.digest
    assert one.digest != other.digest
    assert one.fingerprint == other.fingerprint


def test_the_order_of_parts_is_the_publisher_s_not_that_of_completion(
    tmp_path: Path,
) -> None:
    digests = set()
    for number, order in enumerate((["a", "b"], ["b", "a"])):
        draft = Workspace(tmp_path / str(number)).draft("stage", 1, {}, {})
        for part in order:
            draft.record(part, [write(draft, part, part.encode())])
        digests.add(draft.publish(["a", "b"], {}).digest)
    assert len(digests) == 1


def test_publishing_refuses_an_unfinished_part(workspace: Workspace) -> None:
    draft = workspace.draft("stage", 1, {}, {})
    draft.record("one", [write(draft, "x", b"x")])
    with pytest.raises(ArtefactError) as info:
        draft.publish(["one", "two"], {})
    assert info.value.file == str(draft.path) and "'two'" in info.value.problem
    assert not (draft.path / "manifest.json").exists()
    assert workspace.find("stage", draft.fingerprint) is None


def test_resuming_finds_recorded_parts_only(workspace: Workspace) -> None:
    draft = workspace.draft("stage", 1, {}, {})
    recorded = write(draft, "x", b"x", rows=1)
    draft.record("one", [recorded])
    write(draft, "loose", b"written but not recorded")
    again = workspace.draft("stage", 1, {}, {})
    assert again.done("one") == (recorded,)
    assert again.done("two") is None
    assert [record.path for record in again.publish(["one"], {}).files] == ["x"]


def test_a_part_may_have_no_files(workspace: Workspace) -> None:
    draft = workspace.draft("stage", 1, {}, {})
    draft.record("empty", [])
    assert draft.done("empty") == ()
    assert draft.publish(["empty"], {}).files == ()


def test_fill_runs_only_parts_that_are_not_recorded(workspace: Workspace) -> None:
    """Results come out of order; one part was recorded before; one has two files."""
    draft = workspace.draft("stage", 1, {}, {})
    draft.record("b", [write(draft, "b", b"b")])
    ran: list[object] = []
    seen: list[tuple[int, list[str]]] = []

    def work(item: int, shared: str) -> FileRecord | list[FileRecord]:
        names = [f"{shared}-{item}"] if item != 3 else ["x", "y"]
        records = [write(draft, name, name.encode()) for name in names]
        return records if item == 3 else records[0]

    def run(function: Any, items: Sequence[int], shared: str, **options: int) -> Any:
        ran.append((list(items), options))
        for index in reversed(range(len(items))):
            yield index, function(items[index], shared)

    items = {"a": 1, "b": 2, "c": 3}
    found = draft.fill(
        run,
        work,
        items,
        "s",
        lambda item, files: seen.append((item, [file.path for file in files])),
        needs=7,
    )
    assert [file.path for file in found] == ["s-1", "b", "x", "y"]
    assert ran == [([1, 3], {"needs": 7})] and seen == [(3, ["x", "y"]), (1, ["s-1"])]
    again = workspace.draft("stage", 1, {}, {})
    assert again.fill(run, work, items, "s") == found and ran[1:] == [([], {})]
    assert again.publish(items, {}).files == tuple(found)


# -- refusals ---------------------------------------------------------------------------------


def test_a_changed_byte_is_refused_with_both_checksums(workspace: Workspace) -> None:
    made = finished(workspace)
    (made.path / "x.bin").write_bytes(b"dat\x00")  # the same length
    with pytest.raises(ArtefactError) as caught:
        made.verified(made.files[0])
    error = caught.value
    assert error.file == str(made.path / "x.bin")
    assert error.expected == f"sha256 {hashlib.sha256(b'data').hexdigest()}"
    assert error.got == hashlib.sha256(b"dat\x00").hexdigest()
    assert made.files[1].verified(made.path) == made.path / "y.bin"
    with pytest.raises(ArtefactError) as caught:
        made.verify()
    assert str(caught.value) == str(error)


def test_a_missing_file_is_refused(workspace: Workspace) -> None:
    made = finished(workspace)
    (made.path / "y.bin").unlink()
    for check in (made.verify, made.check_sizes):
        with pytest.raises(ArtefactError) as info:
            check()
        assert info.value.file == str(made.path / "y.bin") and info.value.expected is None


def test_a_newer_format_is_refused(workspace: Workspace) -> None:
    made = finished(workspace)
    manifest = {**made.manifest, "format": FORMAT + 1, "files": "of another shape"}
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError) as info:
        Artefact.open(made.path)
    assert info.value.got == f"format {FORMAT + 1}" and str(FORMAT) in str(info.value.expected)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": "x"}',
        b'{"format": 1, "files": [{"path": "x"}]}',
    ],
)
def test_a_file_that_is_no_manifest_is_refused(workspace: Workspace, content: bytes) -> None:
    made = finished(workspace)
    (made.path / "manifest.json").write_bytes(content)
    with pytest.raises(ArtefactError) as info:
        Artefact.open(made.path)
    assert info.value.file == str(made.path / "manifest.json")
    assert info.value.fix == f"delete {made.path} and run again"


def test_an_unfinished_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ArtefactError) as info:
            Artefact.open(path)
        assert info.value.file == str(path / "manifest.json")
        assert info.value.fix == "run the command again"


# -- the work directory -----------------------------------------------------------------------


def test_an_artefact_that_exists_is_not_made_again(workspace: Workspace) -> None:
    made = finished(workspace)

    def fail(draft: Draft) -> Artefact:
        raise AssertionError("made again")

    assert workspace.make("stage", 1, CONFIG, INPUTS, fail) == made
    with pytest.raises(AssertionError, match="made again"):
        workspace.make("stage", 2, CONFIG, INPUTS, fail)


def test_a_directory_of_another_artefact_is_refused(workspace: Workspace) -> None:
    made = finished(workspace)
    name = made.fingerprint[:16] + "0" * 48
    with pytest.raises(ArtefactError) as info:
        workspace.find("stage", name)
    assert info.value.got == made.fingerprint and name in str(info.value.expected)


def test_listing_shows_finished_artefacts_only(workspace: Workspace) -> None:
    assert list(workspace.artefacts()) == []
    made = [finished(workspace, stage="b"), finished(workspace, stage="a")]
    workspace.draft("c", 1, {}, {})
    assert list(workspace.artefacts()) == sorted(made, key=lambda item: item.path)
    assert len(made) == 2


def test_a_removed_artefact_is_gone_and_can_be_made_anew(workspace: Workspace) -> None:
    made = finished(workspace)
    workspace.remove(made)
    assert not made.path.exists()
    assert workspace.find("stage", made.fingerprint) is None
    assert finished(workspace) == made


def test_an_interrupted_removal_does_not_leave_records_of_deleted_files(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With them the next attempt would publish files that do not exist."""
    import shutil

    made = finished(workspace)
    real = shutil.rmtree

    def interrupted(path: Path) -> None:
        if path == made.path:
            (made.path / "x.bin").unlink()
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workspace.remove(made)
    assert workspace.find("stage", made.fingerprint) is None
    assert workspace.draft("stage", 1, CONFIG, INPUTS).done("one") is None


def test_artefacts_below_links_are_listed(workspace: Workspace, tmp_path: Path) -> None:
    """A stage or an artefact may lie on another disk."""
    made = [finished(workspace, stage="a"), finished(workspace, stage="b")]
    (made[0].path.parent).rename(tmp_path / "disk")
    made[0].path.parent.symlink_to(tmp_path / "disk")
    made[1].path.rename(tmp_path / "other")
    made[1].path.symlink_to(tmp_path / "other")
    assert list(workspace.artefacts()) == made


def test_a_part_recorded_twice_before_its_first_commit_is_done(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over a network, where commits run in the background."""
    draft = workspace.draft("stage", 1, CONFIG, INPUTS)
    draft._requests = 4
    create = draft_module.create_file

    def slow(path: Path, content: bytes) -> bool:
        time.sleep(0.3)
        return create(path, content)

    monkeypatch.setattr(draft_module, "create_file", slow)
    draft.record("one", [write(draft, "x.bin", b"first")])
    second = write(draft, "x.bin", b"second")
    draft.record("one", [second])
    assert draft.publish(["one"], {}).files == (second,)


# -- manifests of others ----------------------------------------------------------------------

HOSTILE = {
    "path": [
        *("../x", "a/../../x", "/etc/passwd", "..", ".", "", "a//b", "a/", "./a", "a/./b"),
        *("a\\..\\b", "C:/x", "file:///x", "s3://bucket/x", "a\0b", None, 7, ["a"]),
    ],
    "sha256": ["../../x", "", "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", None, 0],
    "bytes": [-1, 1.5, "4", None, True],
    "facts": [None, []],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in HOSTILE.items() for value in values]
)
def test_an_entry_that_leads_out_of_the_artefact_is_refused(
    workspace: Workspace, field: str, value: Any
) -> None:
    """``..`` in a path or a checksum wrote anywhere: both name files of the node's cache."""
    made = finished(workspace)
    entry = json.loads((made.path / "manifest.json").read_bytes())["files"][0]
    manifest = {**made.manifest, "files": [{**entry, field: value}]}
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError) as caught:
        Artefact.open(made.path)
    assert caught.value.file == str(made.path / "manifest.json")
    assert field in caught.value.problem
    draft = workspace.draft("other", 1, CONFIG, INPUTS)
    (draft.path / "records").mkdir()
    (draft.path / "records/one.json").write_text(json.dumps([{**entry, field: value}]))
    with pytest.raises(ArtefactError) as caught:
        draft.done("one")
    assert caught.value.file == str(draft.path / "records/one.json")


_NAMES = st.text("ab.-_ é:~", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))


@hypothesis.given(st.lists(_NAMES, min_size=1, max_size=4))
def test_a_path_below_the_artefact_is_taken(parts: list[str]) -> None:
    path = "/".join(parts)
    hypothesis.assume(":" not in parts[0])
    entry = {"path": path, "bytes": 0, "sha256": "0" * 64}
    assert FileRecord.parsed(entry) == FileRecord(path=path, bytes=0, sha256="0" * 64)
