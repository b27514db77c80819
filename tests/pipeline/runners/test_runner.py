"""Every runner runs each item once, with equal results, and reports errors."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock.errors import Failure, InputError, JobError
from penstock.pipeline.runner import (
    LocalRunner,
    RayRunner,
    Runner,
    in_order,
    open_runner,
)
from penstock.pipeline.runners import placement

RUNNERS = ["local-1", "local-2", "ray"]
PARALLEL = ["local-2", "ray"]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[[str], Runner]:
    def made(name: str) -> Runner:
        if name == "ray":
            request.getfixturevalue("ray_session")
            return RayRunner()
        return LocalRunner(int(name[-1]))

    return made


# -- functions and states of the runs -------------------------------------------------------


def add(item: int, state: int) -> tuple[int, int]:
    return item, item + state


def first_is_slow(item: int, _: object) -> int:
    time.sleep(0.4 if item == 0 else 0.01)
    return item


def fail_on_three(item: int, _: object) -> int:
    if item == 3:
        raise InputError("x.jsonl:3: not so")
    return item


class PeculiarError(Exception):
    """Another library's."""


def fail_peculiarly(item: int, _: object) -> int:
    raise PeculiarError(f"item {item}")


class UnportableError(Exception):
    """Can be pickled but not unpickled, as many exceptions of two arguments are."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} {b}")


def fail_unportably(item: int, _: object) -> int:
    raise UnportableError(item, item)


class Marking:
    """A state that leaves a file each time it is read."""

    pid = 0

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)

    def __setstate__(self, state: dict[str, str]) -> None:
        handle, _ = tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=state["directory"])
        os.close(handle)
        self.pid = os.getpid()


def use(item: int, state: Marking) -> int:
    time.sleep(0.02)
    assert state.pid == os.getpid()
    return item * 2


class Unreadable:
    """A state that cannot be read in a worker."""

    def __getstate__(self) -> dict[str, int]:
        return {"x": 1}

    def __setstate__(self, state: object) -> None:
        raise InputError("model.bin: no such file")


def die_once(item: tuple[int, str], state: object) -> int:
    number, marker = item
    if number == 2 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def mark(item: tuple[int, str], _: object) -> int:
    number, directory = item
    Path(directory, f"start-{number}").touch()
    time.sleep(0.3)
    Path(directory, f"end-{number}").touch()
    return number


def threads(_: int, __: object) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


# -- the same everywhere ----------------------------------------------------------------------


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize("count", [0, 1, 2, 23])
def test_each_item_is_done_once(make: Callable[[str], Runner], name: str, count: int) -> None:
    with closing(make(name)) as runner:
        found = sorted(runner.run(add, list(range(count)), 100))
        assert found == [(item, (item, item + 100)) for item in range(count)]
        # A runner can be used again, with another state.
        again = sorted(runner.run(add, list(range(count)), 7))
    assert again == [(item, (item, item + 7)) for item in range(count)]


@pytest.mark.parametrize("name", PARALLEL)
def test_a_state_that_is_kept_is_read_once_in_each_worker(
    make: Callable[[str], Runner], name: str, tmp_path: Path
) -> None:
    with closing(make(name)) as runner:
        found = sorted(runner.run(use, list(range(12)), Marking(tmp_path), keep_state=True))
        slots = runner.slots
    assert found == [(item, item * 2) for item in range(12)]
    pids = [mark.name.partition("-")[0] for mark in tmp_path.iterdir()]
    assert len(pids) == len(set(pids))
    assert 1 <= len(pids) <= slots
    assert str(os.getpid()) not in pids


@pytest.mark.parametrize("name", RUNNERS)
def test_our_errors_arrive_as_themselves(make: Callable[[str], Runner], name: str) -> None:
    with closing(make(name)) as runner:
        with pytest.raises(InputError) as caught:
            list(runner.run(fail_on_three, list(range(20))))
        assert type(caught.value) is InputError
        assert str(caught.value) == "x.jsonl:3: not so"
        assert sorted(runner.run(add, [1, 2], 0)) == [(0, (1, 1)), (1, (2, 2))]  # still usable


@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize("keep", [False, True])
def test_our_errors_arrive_from_reading_the_state_too(
    make: Callable[[str], Runner], name: str, keep: bool
) -> None:
    with closing(make(name)) as runner, pytest.raises(InputError) as caught:
        list(runner.run(add, [1, 2, 3], Unreadable(), keep))
    assert str(caught.value) == "model.bin: no such file"


@pytest.mark.parametrize("name", RUNNERS)
def test_other_errors_keep_their_kind_and_text(make: Callable[[str], Runner], name: str) -> None:
    with closing(make(name)) as runner, pytest.raises(PeculiarError, match=r"item \d"):
        list(runner.run(fail_peculiarly, [1, 2, 3]))


@pytest.mark.parametrize("name", PARALLEL)
def test_an_error_that_cannot_be_carried_over_is_not_taken_for_a_killed_worker(
    make: Callable[[str], Runner], name: str
) -> None:
    with closing(make(name)) as runner:
        with pytest.raises(Failure) as caught:
            list(runner.run(fail_unportably, [1, 2, 3]))
        assert re.fullmatch(r"UnportableError: (\d) \1; 2 of 2 others .*", str(caught.value))
        assert len(list(runner.run(add, [1, 2], 0))) == 2


@pytest.mark.parametrize("name", RUNNERS)
def test_in_order_keeps_the_items_order(make: Callable[[str], Runner], name: str) -> None:
    with closing(make(name)) as runner:
        if name == "local-2":
            completed = [index for index, _ in runner.run(first_is_slow, list(range(8)))]
            assert completed[0] != 0, "the test shows nothing if the slow item came first"
        assert list(in_order(runner)(first_is_slow, list(range(8)))) == list(range(8))


class Watched(Sequence[int]):
    """Counts the items that were requested."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if index >= self.length:
            raise IndexError
        self.asked = max(self.asked, index + 1)
        return index


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize("keep", [False, True])
def test_few_items_are_in_flight(make: Callable[[str], Runner], name: str, keep: bool) -> None:
    items = Watched(40)
    most = 0
    with closing(make(name)) as runner:
        for done, _ in enumerate(runner.run(add, items, 1, keep)):
            most = max(most, items.asked - done)
        assert 1 <= most <= runner.slots * 2
        if name == "local-2":
            assert most > 1, "nothing ran side by side"


@pytest.mark.parametrize("name", PARALLEL)
def test_workers_use_one_thread(make: Callable[[str], Runner], name: str) -> None:
    with closing(make(name)) as runner:
        assert dict(runner.run(threads, [1, 2, 3])) == {0: "1", 1: "1", 2: "1"}


# -- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize("keep", [False, True])
def test_the_items_of_a_killed_worker_are_done_again(
    make: Callable[[str], Runner], name: str, tmp_path: Path, keep: bool
) -> None:
    items = [(number, str(tmp_path / "killed")) for number in range(6)]
    with closing(make(name)) as runner:
        assert sorted(runner.run(die_once, items, None, keep)) == [(n, n) for n in range(6)]
        assert (tmp_path / "killed").exists()
        assert runner.usage.lost_workers == 1
        assert runner.usage.items == 6


def settled(directory: Path) -> tuple[int, int]:
    """Items begun and ended, seen again after longer than an item takes."""
    time.sleep(0.7)
    names = [path.name for path in directory.iterdir()]
    return sum(n.startswith("start") for n in names), sum(n.startswith("end") for n in names)


@pytest.mark.parametrize("name", PARALLEL)
def test_nothing_goes_on_after_a_run_was_given_up(
    make: Callable[[str], Runner], name: str, tmp_path: Path
) -> None:
    with closing(make(name)) as runner:
        results = runner.run(mark, [(number, str(tmp_path)) for number in range(50)])
        next(results)
        results.close()  # type: ignore[attr-defined]
        before = sorted(path.name for path in tmp_path.iterdir())
        settled(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        assert len(before) < 20


def children() -> set[int]:
    """Processes of ours, without those of a Ray that another test has started."""
    mine = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just gone
            if "penstock.pipeline.runners.worker" in " ".join(child.cmdline()):
                mine.add(child.pid)
    return mine


@pytest.mark.parametrize("early", [False, True])
def test_a_closed_local_runner_leaves_no_process_and_no_file(
    early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    processes = children()
    runner = LocalRunner(2)
    results: Iterator[Any] = runner.run(add, list(range(10)), 1)
    next(results)
    assert len(children() - processes) == 2
    assert len(list(tmp_path.glob("penstock-*/state-*"))) == 1
    if early:
        results.close()  # type: ignore[attr-defined]
    else:
        list(results)
    runner.close()
    assert list(tmp_path.glob("penstock-*/*")) == []
    for _ in range(50):
        if children() <= processes:
            break
        time.sleep(0.1)
    assert children() <= processes
    runner.close()  # twice is harmless


def test_shared_state_travels_once_and_not_with_every_item() -> None:
    """A worker unpickles the state when a run begins, however many items follow."""
    with closing(LocalRunner(2)) as runner:
        found = list(runner.run(unpickled, list(range(20)), Costly()))
    assert {count for _, count in found} == {1}


class Costly:
    """Counts how often it was unpickled in a process."""

    count = 0

    def __setstate__(self, state: Any) -> None:
        type(self).count += 1

    def __getstate__(self) -> dict[str, int]:
        return {"x": 1}


def unpickled(_: int, state: Costly) -> int:
    return state.count


# -- opening ----------------------------------------------------------------------------------


def test_auto_is_local_unless_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    runner = open_runner("auto", 3)
    assert (runner.name, runner.slots) == ("local", 3)
    assert LocalRunner().slots == len(os.sched_getaffinity(0))


def test_auto_is_ray_where_a_cluster_is_named(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    runner = open_runner("auto")
    assert (runner.name, runner.slots) == ("ray", 2)


def test_a_runner_does_not_stop_a_ray_that_it_did_not_start(ray_session: None) -> None:
    RayRunner().close()
    import ray

    assert ray.is_initialized()


def test_an_address_without_a_ray_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray tries a closed port for longer than five minutes."""
    import ray

    def refuse(**_: Any) -> None:
        raise ConnectionError("no answer")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(JobError, match=r"RAY_ADDRESS: no Ray at 127\.0\.0\.1:1 \(no answer: "):
        RayRunner()
    assert time.monotonic() - start < 30
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(JobError, match=r"^Ray could not be started on this machine: no answer"):
        RayRunner()


def test_a_cluster_that_shrinks_below_what_is_in_flight_is_no_error(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = iter([4, 4, 4, 4, *[1] * 1000])
    monkeypatch.setattr(placement.Placement, "slots", property(lambda self: next(slots)))
    assert sorted(RayRunner().run(add, list(range(12)), 1))[-1] == (11, (11, 12))


def test_partial_functions_can_be_sent() -> None:
    with closing(LocalRunner(2)) as runner:
        found = runner.run(functools.partial(add), [1, 2, 3], 1)
        assert sorted(found)[0] == (0, (1, 2))


SCRIPT = """
import sys
from penstock.pipeline.runner import LocalRunner, RayRunner

class State:
    value = 10

def work(item, state):
    return item + state.value

runner = LocalRunner(2) if sys.argv[1] == "local-2" else RayRunner(1)
print(sorted(runner.run(work, [1, 2, 3], State())))
runner.close()
"""


@pytest.mark.parametrize("name", PARALLEL)
def test_a_script_s_own_functions_and_classes_can_be_sent(name: str, tmp_path: Path) -> None:
    """Without a guard of ``__main__``, which spawned workers of the standard library would need."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    environment.pop("RAY_ADDRESS", None)  # a Ray that this process started is closed to others
    done = subprocess.run(
        [sys.executable, str(script), name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["[(0, 11), (1, 12), (2, 13)]"], done.stderr
