"""Locks of a work directory's files: held by no one who may only read, shared by a group."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import StorageError
from penstock.storage import create_file, delete, files_under, locks, read_file, replace_file
from penstock.storage.locks import lock_beside
from tests.harness.stranger import Stranger

ME = os.geteuid()


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory that all users can reach and read."""
    directory = Path(tempfile.mkdtemp(prefix="penstock-work-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.5)
    monkeypatch.setattr("penstock.storage.local.PATIENCE", 0.5, raising=False)  # earlier versions


HOLD = """
import fcntl, os, sys, time
uid = int(sys.argv[1])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
held = []
for path in sys.argv[2:]:
    try:
        held.append(os.open(path, os.O_RDONLY))
        fcntl.flock(held[-1], fcntl.LOCK_EX)
    except PermissionError:
        pass
print(len(held), flush=True)
time.sleep(60)
"""


def test_who_may_only_read_stops_no_one(stranger: Stranger, work: Path, impatient: None) -> None:
    """Attack: ``flock`` of a manifest needs no right to write; the run failed after 30 s."""
    path = work / "manifest.json"
    create_file(path, b"one")
    os.close(os.open(work / ".manifest.json.lock", os.O_CREAT, 0o600))  # as a killed run left it
    names = [str(path), str(work / ".manifest.json.lock"), str(work)]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(stranger.uid), *names], stdout=subprocess.PIPE, text=True
    ) as attack:
        try:
            assert attack.stdout is not None and attack.stdout.readline() == "2\n"  # not the lock
            assert replace_file(path, b"one", b"two")
        finally:
            attack.kill()
    assert read_file(path) == b"two" and files_under(work) == ["manifest.json"]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_group_shares_locks(stranger: Stranger, work: Path, impatient: None, umask: int) -> None:
    """A lock that one made, and that a kill left, is taken by the other; strangers cannot."""
    os.chown(work, ME, stranger.uid)  # his own group
    work.chmod(0o775)
    path = work / "manifest.json"
    create_file(path, b"one")
    path.chmod(0o644)
    os.chown(path, ME, stranger.uid)
    before = os.umask(umask)
    try:
        with lock_beside(path):
            found = os.stat(work / ".manifest.json.lock")
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, stranger.uid)
            os.link(work / ".manifest.json.lock", work / "kept")
    finally:
        os.umask(before)
    os.rename(work / "kept", work / ".manifest.json.lock")
    code = """
with open(values["lock"], "r+b") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
found = True
"""
    assert stranger.run(code, "import fcntl", lock=str(work / ".manifest.json.lock"))
    assert replace_file(path, b"one", b"two")
    assert files_under(work) == ["manifest.json"]


@pytest.mark.parametrize(("mode", "expected"), [(0o755, 0o600), (0o700, 0o600), (0o777, 0o666)])
def test_the_lock_is_open_to_those_who_may_write_beside_it(
    tmp_path: Path, mode: int, expected: int
) -> None:
    tmp_path.chmod(mode)
    with lock_beside(tmp_path / "f"):
        assert stat.S_IMODE((tmp_path / ".f.lock").stat().st_mode) == expected
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_held_is_not_deleted(tmp_path: Path, impatient: None) -> None:
    """Leftovers of a work directory are swept while another process may hold one."""
    with lock_beside(tmp_path / "f"):
        delete(tmp_path / ".f.lock")
        assert files_under(tmp_path) == [".f.lock"]
        with pytest.raises(StorageError, match="suspended"), lock_beside(tmp_path / "f"):
            pass
    (tmp_path / ".f.lock").touch()
    delete(tmp_path / ".f.lock")
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_planted_in_the_place_of_a_lock_is_named(
    tmp_path: Path, impatient: None, kind: str
) -> None:
    """Attack: a link to a file of ours, or a pipe, which would be opened, or waited for."""
    lock = tmp_path / ".f.lock"
    create_file(tmp_path / "f", b"one")
    (tmp_path / "mine").write_bytes(b"precious")
    {
        "link": lambda: lock.symlink_to("mine"),
        "pipe": lambda: os.mkfifo(lock),
        "directory": lock.mkdir,
    }[kind]()
    since = time.monotonic()
    with pytest.raises(StorageError) as caught:
        replace_file(tmp_path / "f", b"one", b"two")
    assert caught.value.file == str(lock) and time.monotonic() - since < 5
    assert read_file(tmp_path / "f") == b"one" and (tmp_path / "mine").read_bytes() == b"precious"
