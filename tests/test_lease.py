"""One driver at a time, and a driver that continues after its lease was taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from penstock import lease as module
from penstock.artefact import Draft, FileRecord, Workspace
from penstock.errors import LeaseError
from penstock.lease import Lease
from penstock.storage import (
    AnyPath,
    as_path,
    atomic_file,
    create_file,
    delete,
    kind_of,
    make_directory,
    replace_file,
)
from tests.s3 import BUCKET


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    if request.param == "local":
        return tmp_path
    request.getfixturevalue("s3")
    return as_path(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every lease look like one of another machine."""
    machines = iter(f"machine {number}" for number in range(100))
    monkeypatch.setattr(module, "_machine", lambda: next(machines))


def test_a_second_driver_is_refused_with_the_holder(root: AnyPath) -> None:
    first, second = Lease(root), Lease(root)
    first.hold()
    first.hold()
    with pytest.raises(LeaseError) as info:
        second.hold()
    assert (info.value.key, info.value.file) == ("work", str(root))
    assert f"process {os.getpid()} on " in info.value.problem
    first.check()
    first.release()
    second.hold()
    second.release()
    first.hold()
    first.release()


def test_the_lease_of_a_killed_driver_is_taken_over_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from penstock.lease import Lease; "
        "Lease(Path(sys.argv[1])).hold(); print('held', flush=True); time.sleep(60)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None and driver.stdout.readline() == "held\n"
    mine = Lease(tmp_path)
    with pytest.raises(LeaseError, match=f"process {driver.pid}"):
        mine.hold()
    driver.send_signal(signal.SIGKILL)
    time.sleep(0.2)  # a zombie: nothing has waited for it
    mine.hold()  # else it would be refused until the lease expires
    driver.wait()
    driver.stdout.close()
    mine.release()


def test_a_lease_of_another_machine_is_taken_over_when_it_expires(
    root: AnyPath, elsewhere: None
) -> None:
    silent = Lease(root, renewal=1000, expiry=1)
    silent.hold()
    mine = Lease(root, renewal=0.2, expiry=1)
    start = time.monotonic()
    assert mine.hold(), "of a driver that did not give it back"
    assert time.monotonic() - start >= 1
    with pytest.raises(LeaseError, match=f"taken over by .*process {os.getpid()}"):
        silent.check()
    mine.check()
    silent.release()
    mine.check()
    mine.release()


@pytest.mark.parametrize("hours", [-1, 1, 100_000])
def test_a_clock_that_is_wrong_neither_locks_nor_loses_a_lease(
    root: AnyPath, elsewhere: None, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: a lease signed in the future locks the directory until then; one signed in the past
    is taken from a driver that renews it late, but in its term."""
    now = time.time
    monkeypatch.setattr(module.time, "time", lambda: now() + 3600 * hours)
    living = Lease(root, renewal=0.5, expiry=1)
    living.hold()
    monkeypatch.undo()
    monkeypatch.setattr(module, "_machine", lambda: "another")
    mine = Lease(root, renewal=0.1, expiry=1)
    with pytest.raises(LeaseError, match="in use by"):
        mine.hold()
    living._stop.set()  # as if its machine had lost its power
    assert mine.hold()
    mine.release()


def test_a_lease_of_an_unknown_format_is_observed_before_it_is_taken_over(root: AnyPath) -> None:
    """Attack: a driver of a newer version signs with a field more, and looks like no driver."""
    path = root / "lease" / "00000001.json"
    for content in (b'{"owner": "newer", "more": 1}', b""):
        delete(path)
        create_file(path, content)
        mine = Lease(root, renewal=0.1, expiry=0.5)
        timer = threading.Timer(0.2, replace_file, (path, content, b"renewed"))
        timer.start()
        with pytest.raises(LeaseError, match="another version"):
            mine.hold()
        timer.join()
    assert mine.hold()
    mine.release()


def test_a_driver_that_slept_through_many_others_finds_its_lease_lost(
    root: AnyPath, elsewhere: None
) -> None:
    """Attack: the number after its own, by which it was to know, is deleted by later drivers."""
    stale = Lease(root, renewal=1000, expiry=0)
    stale.hold()
    for _ in range(4):
        later = Lease(root, renewal=1000, expiry=0)
        later.hold()
        later.release()
    assert kind_of(stale._path(2)) is None
    with pytest.raises(LeaseError, match="taken over"):
        stale.check()
    stale.release()


def test_a_driver_suspended_as_it_tidies_deletes_no_file_of_a_later_one(
    tmp_path: Path, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: half-written files of the driver that took over are deleted like a killed one's."""
    Lease(tmp_path, renewal=1000).hold()
    stale, later = (Lease(tmp_path, renewal=1000, expiry=0) for _ in range(2))
    find, written = module.find_temporaries, []

    def suspended(path: Path, deep: bool = True) -> list[AnyPath]:
        monkeypatch.setattr(module, "find_temporaries", find)
        later.hold()
        written.append(tmp_path / "corpus" / f".unit.{'0' * 32}.tmp")
        make_directory(written[0].parent)
        written[0].write_bytes(b"half")
        return find(path, deep)

    monkeypatch.setattr(module, "find_temporaries", suspended)
    with pytest.raises(LeaseError, match="taken over"):
        stale.hold()
    assert written[0].read_bytes() == b"half"
    later.release()
    stale.release()


@pytest.mark.slow
def test_one_of_many_that_begin_at_once_gets_the_lease(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from penstock.lease import Lease\n"
        "from penstock.errors import LeaseError\n"
        "while not Path(sys.argv[2]).exists(): time.sleep(0.001)\n"
        "try: Lease(Path(sys.argv[1])).hold(); print('held', flush=True); time.sleep(3)\n"
        "except LeaseError: print('refused', flush=True)"
    )
    start = tmp_path / "start"
    command = [sys.executable, "-c", script, str(tmp_path / "work"), str(start)]
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    time.sleep(2)
    start.touch()
    said = sorted(driver.communicate(timeout=30)[0].strip() for driver in drivers)
    assert said == ["held", *["refused"] * 5]


def test_a_driver_without_its_lease_publishes_nothing(root: AnyPath, elsewhere: None) -> None:
    stale_lease, newer_lease = (
        Lease(root, renewal=1000, expiry=0),
        Lease(root, renewal=0.1, expiry=0),
    )
    stale = _draft(root, stale_lease)
    _write(stale, "a")
    newer = _draft(root, newer_lease)
    with pytest.raises(LeaseError, match="taken over"):
        _write(stale, "b")
        stale.settle()
    with pytest.raises(LeaseError, match="taken over"):
        stale.publish(["a"], {})
    _write(newer, "b")
    made = newer.publish(["a", "b"], {"who": "newer"})
    # Even one that slept through the check finds that the manifest is there.
    stale._lease = None
    assert stale.publish(["a"], {"who": "stale"}).facts == {"who": "newer"}
    assert made.facts == {"who": "newer"}
    newer_lease.release()
    stale_lease.release()


def test_a_part_that_another_driver_recorded_is_not_replaced(root: AnyPath) -> None:
    one, two = (Workspace(root).draft("stage", 1, {}, {}) for _ in range(2))
    assert one.done("a") is None and two.done("a") is None
    _write(one, "a")
    _write(two, "a")  # the same bytes are no contradiction
    one.record("b", [FileRecord(path="b", bytes=1, sha256="1" * 64)])
    one.settle()
    with pytest.raises(LeaseError) as info:
        two.record("b", [FileRecord(path="b", bytes=1, sha256="2" * 64)])
        two.settle()
    assert info.value.file == str(two.path / "records" / "b.json")


def test_only_a_driver_that_makes_something_takes_the_lease(root: AnyPath) -> None:
    with Workspace.driving(root) as workspace:
        made = workspace.make("stage", 1, {}, {}, lambda draft: draft.publish([], {}))
        with Workspace.driving(root) as inner:  # the same process drives once
            inner.make("stage", 2, {}, {}, lambda draft: draft.publish([], {}))
        other = Lease(root)
        with pytest.raises(LeaseError):
            other.hold()
    other.hold()
    with Workspace.driving(root) as workspace:
        assert workspace.find("stage", made.fingerprint) == made
        assert workspace.make("stage", 1, {}, {}, lambda draft: draft.publish([], {})) == made
        with pytest.raises(LeaseError, match="in use"):
            workspace.draft("stage", 3, {}, {})
    other.release()


def _draft(root: AnyPath, lease: Lease) -> Draft:
    return Workspace(root, lease).draft("stage", 1, {}, {})


def _write(draft: Draft, name: str) -> None:
    with atomic_file(draft.path / name) as sink:
        sink.write(name.encode())
    draft.record(name, [FileRecord.of(name, sink)])
