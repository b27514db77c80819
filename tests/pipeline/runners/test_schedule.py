"""One policy for every runner: failures, continuation, retries and counts."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import InputError, ScoringError, StorageError, WorkerError
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner, in_order
from penstock.pipeline.runners import attempt as attempt_module
from penstock.pipeline.runners.schedule import Schedule, WorkerLost

RUNNERS = ["local-1", "local-2", "ray"]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[[str], Runner]:
    def made(name: str) -> Runner:
        if name == "ray":
            request.getfixturevalue("ray_session")
            return RayRunner()
        return LocalRunner(int(name[-1]))

    return made


def fail_on(number: int, bad: set[int]) -> int:
    if number in bad:
        raise InputError(f"x.jsonl:{number}: not so")
    return number


def drained(results: Iterator[tuple[int, Any]]) -> tuple[list[int], Any]:
    """The indices that came, and the error at the end."""
    done = []
    with pytest.raises(Exception) as caught:
        for index, _ in results:
            done.append(index)
    return sorted(done), caught.value


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize("keep", [False, True])
def test_an_item_that_fails_does_not_stop_the_others(
    make: Callable[[str], Runner], name: str, keep: bool
) -> None:
    with closing(make(name)) as runner:
        done, error = drained(runner.run(fail_on, list(range(30)), {7}, keep))
        assert done == [n for n in range(30) if n != 7]
        assert (type(error), str(error)) == (InputError, "x.jsonl:7: not so")
        assert runner.usage.items == 30


def test_several_failures_are_counted_and_five_are_named() -> None:
    bad = {3, 5, 8, 13, 21, 22, 23}
    done, error = drained(LocalRunner(1).run(fail_on, list(range(30)), bad))
    assert len(done) == 23
    assert type(error) is InputError
    assert str(error) == ("x.jsonl:3: not so; 6 of 29 others failed too: 5, 8, 13, 21 and 2 more")


@pytest.mark.parametrize("name", RUNNERS)
def test_where_nothing_succeeds_the_rest_is_not_begun(
    make: Callable[[str], Runner], name: str
) -> None:
    with closing(make(name)) as runner:
        done, error = drained(runner.run(fail_on, range(1000), set(range(1000))))
        assert done == []
        assert type(error) is InputError
        assert "none had succeeded, so the rest was not started" in str(error)
        assert 4 <= runner.usage.items <= 4 + 2 * runner.slots


def test_an_error_that_is_raised_at_once_is_not_logged_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would be the same long line twice; where other items go on, it is logged at once."""
    drained(LocalRunner(1).run(fail_on, [3], {3}))
    drained(LocalRunner(1).run(fail_on, [1, 2, 3], {3}))
    assert not caplog.records
    drained(LocalRunner(1).run(fail_on, [1, 3, 4], {3}))
    assert [record.message for record in caplog.records] == ["x.jsonl:3: not so"]
    drained(LocalRunner(1).run(fail_on, [3, 4], {3, 4}))
    assert len(caplog.records) == 3


def test_one_success_at_the_start_is_enough_to_go_on() -> None:
    done, _ = drained(LocalRunner(1).run(fail_on, range(100), set(range(1, 99))))
    assert done == [0, 99]


# -- in order ---------------------------------------------------------------------------------


def wait_for(number: int, directory: str) -> int:
    """The first item waits until no other is begun for a while."""
    Path(directory, str(number)).touch()
    if number == 0:
        begun = 0
        while begun != len(os.listdir(directory)):
            begun = len(os.listdir(directory))
            time.sleep(0.5)
    return number


def test_in_order_little_is_done_ahead_of_the_first_unfinished(tmp_path: Path) -> None:
    with closing(LocalRunner(2)) as runner:
        results = in_order(runner)(wait_for, range(500), str(tmp_path))
        assert next(results) == 0
        ahead = len(os.listdir(tmp_path))
        assert 2 * 2 < ahead <= 8 * 2 * 2
        assert list(results) == list(range(1, 500))


@pytest.mark.parametrize("name", RUNNERS)
def test_in_order_the_first_failure_ends_the_run(make: Callable[[str], Runner], name: str) -> None:
    with closing(make(name)) as runner:
        results = in_order(runner)(fail_on, range(200), {5})
        with pytest.raises(InputError, match=r"^x\.jsonl:5: not so$"):
            list(results)
        assert runner.usage.items < 100


# -- what passes ------------------------------------------------------------------------------


def falter(item: tuple[str, int, int], kind: type[Exception] | None) -> int:
    """Fail a given number of times, counted by files in a directory."""
    directory, times, number = item
    before = len(os.listdir(directory))
    if before < times:
        Path(directory, str(before)).touch()
        if kind is not None:
            raise kind("broken") from OSError(number, "cause")
        raise OSError(number, os.strerror(number))
    return before


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize("kind", [None, ScoringError])
def test_errors_that_pass_are_waited_for(
    make: Callable[[str], Runner], name: str, kind: Any, tmp_path: Path
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    items = [(str(tmp_path / "x"), 1, errno.EIO), (str(tmp_path / "y"), 0, 0)]
    with closing(make(name)) as runner:
        assert sorted(runner.run(falter, items, kind)) == [(0, 1), (1, 0)]
        assert runner.usage.retries == 1
        assert runner.usage.lost_workers == 0
        assert runner.usage.busy_seconds >= 0.375  # the wait is part of the work


class Faltering:
    """A state that fails to be read once, for a reason that passes."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)

    def __setstate__(self, state: dict[str, str]) -> None:
        falter((state["directory"], 1, errno.ETIMEDOUT), None)
        self.directory = state["directory"]


@pytest.mark.parametrize("name", ["local-2", "ray"])
def test_reading_the_state_is_tried_again_too(
    make: Callable[[str], Runner], name: str, tmp_path: Path
) -> None:
    with closing(make(name)) as runner:
        found = dict(runner.run(use_state, [1, 2, 3], Faltering(tmp_path), keep_state=True))
        assert set(found.values()) == {str(tmp_path)}
        if name != "ray":  # there the other actor may do everything meanwhile
            assert runner.usage.retries == 1


def use_state(_: int, state: Faltering) -> str:
    return state.directory


def test_the_error_after_the_last_attempt_counts_the_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_module, "_WAITS", (0.01,) * 4)
    item = (str(tmp_path), 100, errno.EIO)
    _, error = drained(LocalRunner(1).run(falter, [item]))
    assert type(error) is StorageError
    assert isinstance(error.__cause__, OSError)
    assert "[Errno 5]" in error.problem and "tried 5 times" in error.problem
    assert error.fix
    _, error = drained(LocalRunner(1).run(falter, [item], ScoringError))
    assert (type(error), str(error)) == (ScoringError, "broken (tried 5 times)")
    assert len(os.listdir(tmp_path)) == 10


def test_the_first_retry_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And no more for a time: a store that is down fails every item of a run."""
    monkeypatch.setattr(attempt_module, "_WAITS", (0.01,) * 4)
    monkeypatch.setattr(attempt_module, "_logged", -1e9)
    items = []
    for name in "xyz":
        (tmp_path / name).mkdir()
        items.append((str(tmp_path / name), 2, errno.EIO))
    assert len(list(LocalRunner(1).run(falter, items))) == 3
    (record,) = caplog.records
    assert record.message.endswith(": OSError: [Errno 5] Input/output error; trying again")


def test_a_permanent_error_is_not_retried(tmp_path: Path) -> None:
    _, error = drained(LocalRunner(1).run(falter, [(str(tmp_path), 100, errno.ENOSPC)]))
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOSPC
    assert len(os.listdir(tmp_path)) == 1


# -- the schedule by itself -------------------------------------------------------------------


def taken(schedule: Schedule) -> list[int]:
    found = []
    while (index := schedule.take(1000)) is not None:
        found.append(index)
    return found


def test_a_suspect_is_alone_and_queued_items_lose_no_attempt() -> None:
    schedule = Schedule(range(6), isolate=True)
    assert [schedule.take(1000) for _ in range(4)] == [0, 1, 2, 3]
    for _ in range(20):  # 1 was only ever queued behind others
        schedule.requeue_lost(WorkerLost("was killed", queued=(1,)), 2)
        assert schedule.take(1000) == 1
    schedule.requeue_lost(WorkerLost("was killed", at=0, queued=(2,)), 2)
    assert taken(schedule) == []  # 1 and 3 are still under way
    schedule.mark_succeeded(1)
    schedule.mark_succeeded(3)
    assert taken(schedule) == [0]  # and nothing beside it
    schedule.requeue_lost(WorkerLost("was killed", at=0), 2)
    assert taken(schedule) == [0]
    schedule.requeue_lost(WorkerLost("was killed", at=0), 2)
    assert taken(schedule) == [2, 4, 5]
    for index in (2, 4, 5):
        schedule.mark_succeeded(index)
    assert schedule.over
    with pytest.raises(WorkerError) as caught:
        schedule.raise_failure()
    assert caught.value.problem == "0: its worker was killed, 3 times, by a crash"


def test_machines_that_go_are_forgiven_ten_times() -> None:
    schedule = Schedule(range(1))
    for _ in range(9):
        assert schedule.take(1) == 0
        schedule.requeue_lost(WorkerLost("was lost (NodeDiedError: spot)", at=0, blamed=False), 1)
        assert not schedule.over
    assert schedule.take(1) == 0
    schedule.requeue_lost(WorkerLost("was lost (NodeDiedError: spot)", at=0, blamed=False), 1)
    with pytest.raises(WorkerError) as caught:
        schedule.raise_failure()
    assert caught.value.problem.endswith("(NodeDiedError: spot), 10 times")


# -- what it cost -----------------------------------------------------------------------------


def spend(megabytes: int, _: object) -> int:
    held = bytearray(megabytes << 20)
    time.sleep(0.1)
    return len(held)


@pytest.mark.parametrize("name", RUNNERS)
def test_usage_adds_up(make: Callable[[str], Runner], name: str) -> None:
    with closing(make(name)) as runner:
        slots = runner.slots
        list(runner.run(spend, [1] * 8))
        before = runner.usage.peak_worker_bytes
        assert list(runner.run(spend, [300]))
        usage = runner.usage
    assert usage.items == 9
    assert 9 * 0.1 <= usage.busy_seconds <= usage.wall_seconds * slots
    assert usage.peak_worker_bytes >= 300 << 20
    if name == "local-2":
        assert 10 << 20 < before < 300 << 20
    assert (usage.retries, usage.lost_workers) == (0, 0)
