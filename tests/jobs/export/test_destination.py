"""The directory of an export: real kills, two processes at once, damage, and places that refuse."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.artefact import Draft
from penstock.errors import ArtefactError, InputError, LeaseError, PenstockError, StorageError
from penstock.jobs.curate import Curated
from penstock.jobs.export import export
from penstock.lease import Lease
from penstock.pipeline.runner import LocalRunner
from penstock.storage import files_under, read_file, temporary_target
from tests.harness import ROOT
from tests.jobs.export.exported import curated_of
from tests.jobs.test_documents import RECIPE
from tests.pools import documents, write_jsonl

KILLED = """\
import os, signal, sys
from penstock.jobs.cli import main

def at(function):
    def called(source, target, *arguments, **options):
        if sys.argv[1] in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(source, target, *arguments, **options)
    return called

os.link, os.replace = at(os.link), at(os.replace)
main(["export", "recipe.yaml", "--to", sys.argv[2], "--out", sys.argv[3], "--runner", "local",
      "--workers", "1", *sys.argv[4:]])
"""
"""Exports, and ends by SIGKILL between the writing of a temporary file and its renaming."""


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    return curated_of(tmp_path_factory.mktemp("destination"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("killed")
    write_jsonl(at / "pool.jsonl", documents(150))
    (at / "lengths.py").write_text("def score(texts):\n    return [len(t) for t in texts]\n")
    (at / "recipe.yaml").write_text(RECIPE)
    penstock.curate(at / "recipe.yaml", runner="local", workers=1)
    return at


def run(project: Path, kill_at: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, kill_at, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


def contents(out: Path) -> dict[str, bytes]:
    return {name: read_file(out / name) for name in files_under(out)}


def exported(curated: Curated, to: str, out: Path, overwrite: bool = False) -> Any:
    return export(curated, to, str(out), LocalRunner(1), overwrite=overwrite)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "moments"),
    [
        (
            "jsonl",
            [
                "lease/",
                "-begun.json",
                "lease/",
                "data/train-",
                "-data-train-",
                "README.md",
                "manifest.json",
            ],
        ),
        ("numpy", ["data/tokens-", "scratch/", "tokens.json", "-described.json", "manifest.json"]),
    ],
)
def test_killed_before_a_renaming_it_goes_on(
    project: Path, tmp_path: Path, to: str, moments: list[str]
) -> None:
    """The temporary files of the kill were taken for files of another export."""
    out = tmp_path / "out"
    for moment in moments:  # one within taking the lease is before and after anything is written
        killed = run(project, moment, to, str(out))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        half = [target for name in files_under(out) if (target := temporary_target(name))]
        assert [name for name in half if moment in name], "not killed at the moment"
    done = run(project, "nowhere", to, str(out))
    assert done.returncode == 0, done.stderr
    penstock.export(project / "recipe.yaml", to, tmp_path / "whole", runner="local", workers=1)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_another_export_replaces_a_killed_one(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(project, "README.md", "jsonl", str(out)).returncode == -signal.SIGKILL
    again = run(project, "nowhere", "parquet", str(out))
    assert again.returncode == 2 and "--overwrite" in again.stderr
    assert run(project, "nowhere", "parquet", str(out), "--overwrite").returncode == 0
    penstock.export(project / "recipe.yaml", "parquet", tmp_path / "whole", workers=1)
    assert contents(out) == contents(tmp_path / "whole")


def test_temporary_files_of_others_are_not_ours(curated: Curated, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = out / f".thesis.txt.{'0' * 32}.tmp"
    mine.write_text("years of work")
    with pytest.raises(InputError):
        exported(curated, "jsonl", out)
    assert mine.exists()


def test_leftovers_of_a_finished_export_go(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The lease below has no process whose end could be seen, and is observed until it expires.
    monkeypatch.setattr(Lease.__init__, "__defaults__", (0.1, 0.3, "work"))
    out = tmp_path / "out"
    made = exported(curated, "jsonl", out).artefact
    whole = contents(out)
    left = [
        f"records/{made.fingerprint[:16]}-begun.json",
        "scratch/unit-00000.json",
        f".manifest.json.{'a' * 32}.tmp",
        f"data/.train-00000-of-00001.jsonl.zst.{'a' * 32}.tmp",
        "lease/00000001.json",
    ]
    for name in [*left, "notes.txt", "data/mine.jsonl"]:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("{}")
    assert exported(curated, "jsonl", out).summary()["bytes"] == sum(map(len, whole.values()))
    assert contents(out) == {**whole, "notes.txt": b"{}", "data/mine.jsonl": b"{}"}
    assert not (out / "records").exists() and not (out / "lease").exists()


def test_an_unfinished_export_keeps_files_of_others(curated: Curated, tmp_path: Path) -> None:
    """They were deleted when it was finished."""
    name = exported(curated, "jsonl", tmp_path / "whole").artefact.fingerprint
    out = tmp_path / "out"
    Draft(out, {"fingerprint": name}).record(f"{name[:16]}-begun", [])
    (out / "data").mkdir()
    for mine in ("notes.txt", "data/mine.txt"):
        (out / mine).write_text("years of work")
        for overwrite in (False, True):
            with pytest.raises(InputError) as info:
                exported(curated, "jsonl", out, overwrite)
            assert info.value.key == "--out" and mine in str(info.value)
        (out / mine).unlink()
    exported(curated, "jsonl", out)
    assert contents(out) == contents(tmp_path / "whole")


# -- two at once --------------------------------------------------------------------------------


def test_two_at_once_are_told(curated: Curated, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = Lease(out)
    first.hold()
    try:
        before = contents(out)
        with pytest.raises(LeaseError) as info:
            exported(curated, "jsonl", out)
        assert info.value.key == "--out" and info.value.file == str(out)
        assert "`work`" not in str(info.value)
        assert contents(out) == before
    finally:
        first.release()
    exported(curated, "jsonl", out)
    assert not (out / "lease").exists()


@pytest.mark.slow
def test_two_processes_at_once(project: Path, tmp_path: Path) -> None:
    """One writes; the other says so, or finds it complete."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "nowhere", "jsonl", str(out)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ends = [(one.communicate(timeout=120)[1], one.returncode) for one in both]
    assert 0 in [code for _, code in ends]
    for words, code in ends:
        assert code == 0 or (code == 1 and "--out" in words), words
    penstock.export(project / "recipe.yaml", "jsonl", tmp_path / "whole", workers=1)
    assert contents(out) == contents(tmp_path / "whole")


# -- damage -------------------------------------------------------------------------------------


def edit(out: Path) -> None:
    with (out / "README.md").open("a") as file:
        file.write("my words\n")


def remove(out: Path) -> None:
    next((out / "data").iterdir()).unlink()


def flip(out: Path) -> None:
    path = next((out / "data").iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [edit, remove, flip])
def test_overwriting_mends_an_export(curated: Curated, tmp_path: Path, damage: Any) -> None:
    out = tmp_path / "out"
    exported(curated, "numpy", out)
    whole = contents(out)
    damage(out)
    if damage is flip:  # sizes are compared
        exported(curated, "numpy", out)
    else:
        with pytest.raises(ArtefactError) as info:
            exported(curated, "numpy", out)
        assert "--overwrite" in str(info.value.fix) and "delete" not in str(info.value.fix)
    assert contents(out) != whole
    (out / "notes.txt").write_text("years of work")
    with pytest.raises(InputError):
        exported(curated, "numpy", out, overwrite=True)
    (out / "notes.txt").unlink()
    exported(curated, "numpy", out, overwrite=True)
    assert contents(out) == whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    exported(curated, "numpy", out, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


# -- places that refuse -------------------------------------------------------------------------


def refused(curated: Curated, out: Path) -> PenstockError:
    with pytest.raises(PenstockError) as info:
        exported(curated, "jsonl", out)
    error = info.value
    assert error.key == "--out" and error.fix and "--out" in error.fix
    assert "`work`" not in str(error)
    assert not re.search(r"\b(remove|delete)\b", str(error))
    return error


def test_a_file_in_the_way_is_bad_input(curated: Curated, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "file/below", "file/below/it", "link", "link/below", "pipe"):
        error = refused(curated, tmp_path / name)
        assert isinstance(error, InputError) and error.exit_status == 2
        assert error.file == str(tmp_path / name.partition("/")[0])
    out = tmp_path / "out"
    out.mkdir()
    (out / "data").write_text("years of work")
    assert isinstance(refused(curated, out), InputError)


def test_a_place_without_directories_is_told(curated: Curated) -> None:
    assert isinstance(refused(curated, Path("/proc/export")), StorageError)


@pytest.mark.parametrize("number", ["ENOSPC", "EACCES", "EPERM", "EROFS", "EDQUOT"])
def test_a_full_or_forbidden_place_is_told(
    curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    import errno

    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if "data/" in str(target):
            code = getattr(errno, number)
            raise OSError(code, os.strerror(code))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    error = refused(curated, tmp_path / "out")
    assert isinstance(error, StorageError) and error.file.startswith(str(tmp_path / "out"))
    monkeypatch.undo()
    exported(curated, "jsonl", tmp_path / "out")
