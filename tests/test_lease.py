"""One driver at a time, and a driver that continues after its lease was taken over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock import lease as module
from penstock.artefact import Draft, FileRecord, Workspace
from penstock.errors import LeaseError
from penstock.lease import Lease
from penstock.ray_job import current_job
from penstock.storage import (
    AnyPath,
    atomic_file,
    create_file,
    delete,
    kind_of,
    make_directory,
    replace_file,
)
from tests.harness import ROOT
from tests.harness.stranger import second_user


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


@pytest.mark.parametrize("restored", [False, True], ids=["removed", "restored"])
def test_of_two_drivers_with_one_number_the_token_in_the_file_decides(
    tmp_path: Path, elsewhere: None, restored: bool
) -> None:
    """Attack: the directory is removed, or put back from a copy, below a driver at work."""
    if restored:
        (before := Lease(tmp_path)).hold()
        before.release()
        shutil.copytree(tmp_path / "lease", tmp_path / "copy")
    first = Lease(tmp_path, renewal=0.05)
    first.hold()
    shutil.rmtree(tmp_path / "lease")
    time.sleep(0.2)  # it must not be made again by a renewal
    with pytest.raises(LeaseError, match="removed or replaced") as info:
        first.check()
    assert info.value.file == str(tmp_path / "lease" / f"0000000{1 + restored}.json")
    if restored:
        shutil.copytree(tmp_path / "copy", tmp_path / "lease")
    second = Lease(tmp_path, renewal=0.05)
    second.hold()
    assert second.number == first.number
    time.sleep(0.2)  # a renewal of the first must not replace the file of the second
    second.check()
    with pytest.raises(LeaseError, match="taken over by"):
        first.check()
    first.release()
    second.check()
    second.release()


HOLDER = {
    "owner": "x",
    "host": "h",
    "machine": module._machine(),
    "pid": 1,
    "started": "0",
    "command": "c",
    "since": 0.5,
    "signed": 0.5,
    "released": True,
}

FORGED = {
    "pid": ["abc", 10**30, -1, 0, True, 1.5, None],
    "since": ["x", 1e300, -1e300, float("nan"), float("inf"), True, []],
    "signed": [float("nan"), None],
    "released": ["no", 1, None],
    "machine": [1, None, {}],
    "command": [["c"], 7],
}


def test_a_forged_lease_is_observed_like_one_of_an_unknown_format(tmp_path: Path) -> None:
    """Attack: values that end the driver with TypeError, OverflowError or ValueError."""
    path = tmp_path / "lease" / "00000005.json"
    path.parent.mkdir()
    assert module._decoded(json.dumps(HOLDER).encode()) is not None
    contents = [json.dumps({**HOLDER, key: value}) for key in FORGED for value in FORGED[key]]
    for content in [*contents, "[" * 60_000, "[]", "1", "null", json.dumps(HOLDER)[:-1]]:
        path.write_text(content)
        assert module._decoded(content.encode()) is None, content[:200]
        mine = Lease(tmp_path, renewal=1000, expiry=0)
        assert mine.driver() == "a driver of another version of Penstock"
        assert mine.hold() and mine.number == 6
        mine.release()
        (path.parent / "00000006.json").unlink()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00000005.json", " " * 2**17),
        ("99999999.json", None),
        ("999999999999.json", None),
    ],
)
def test_a_forged_file_that_no_driver_can_follow_is_named_with_the_fix(
    tmp_path: Path, name: str, content: str | None
) -> None:
    """Attack: after a number of 12 digits one driver worked, and all later ones were refused."""
    path = tmp_path / "lease" / name
    path.parent.mkdir()
    path.write_text(json.dumps(HOLDER) if content is None else content)
    for _ in range(2):
        with pytest.raises(LeaseError) as info:
            Lease(tmp_path).hold()
        assert (info.value.key, info.value.file) == ("work", str(path))
        assert info.value.fix == "delete the file if no driver is at work there"
    path.unlink()
    Lease(tmp_path).hold()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/none")])
def test_what_is_no_file_in_the_way_of_the_next_lease_is_named(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """Attack: IsADirectoryError, or a driver that waits for a writer of a FIFO without end."""
    (tmp_path / "lease").mkdir()
    path = tmp_path / "lease" / "00000001.json"
    make(path)
    with pytest.raises(LeaseError) as info:
        Lease(tmp_path).hold()
    assert (info.value.file, info.value.fix) == (str(path), "delete it")


HIDDEN = f"""
import ctypes, os
from pathlib import Path
libc = ctypes.CDLL(None)
made = libc.unshare(0x20000) or libc.mount(b"none", b"/", None, 0x44000, None)
made = made or libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=%d")
sys.path.insert(0, {str(ROOT)!r})
from penstock.errors import LeaseError
from penstock.lease import Lease
from penstock.ray_job import current_job
"""

TAKE = """
found = [made, os.path.exists(f"/proc/{values['pid']}")]
try:
    Lease(Path(values["root"]), 0.2, 0.5).hold()
    found.append("taken")
except LeaseError as error:
    found.append(error.problem)
"""


@pytest.mark.parametrize("hidden", [1, 2])
def test_a_process_that_proc_hides_is_observed_before_its_lease_is_taken_over(hidden: int) -> None:
    """Attack: another user's driver, hidden by ``hidepid``, looked dead, and lost its lease."""
    root = Path(tempfile.mkdtemp(prefix="penstock-shared-", dir="/tmp"))
    before = os.umask(0)
    living = Lease(root, renewal=0.1)
    try:
        root.chmod(0o777)
        living.hold()
        with second_user() as stranger:
            made, seen, problem = stranger.run(
                TAKE,
                before=HIDDEN % hidden,
                pid=os.getpid(),
                root=str(root),
            )
        if made:
            pytest.skip("NOT RUN: /proc cannot be mounted here")
        assert seen is (hidden == 1)
        assert problem.startswith("in use by") and f"process {os.getpid()} on " in problem
        living.check()
    finally:
        living.release()
        os.umask(before)
        shutil.rmtree(root)


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


def test_the_job_that_holds_a_lease_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "c1"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", job)
    monkeypatch.setattr(sys, "argv", ["/somewhere/penstock/__main__.py", "curate", "recipe.yaml"])
    lease = Lease(tmp_path)
    lease.hold()
    try:
        described = str(lease.driver())
        assert described.startswith("penstock curate of job c1, `penstock stop c1` (process ")
        for other in ("", "[]", '{"metadata": {"job_submission_id": "a b"}}'):
            assert current_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": other}) is None
    finally:
        lease.release()
