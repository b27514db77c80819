"""Workers that die take nothing with them: no result, no other item's attempts, no driver."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from penstock.errors import Failure, WorkerError
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner
from penstock.pipeline.runners import local, placement, schedule
from penstock.pipeline.runners.attempt import MORE_MEMORY
from penstock.resources import Resources

PARALLEL = ["local-2", "ray"]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[[str], Runner]:
    def made(name: str) -> Runner:
        if name == "ray":
            request.getfixturevalue("ray_session")
            return RayRunner()
        return LocalRunner(int(name[-1]))

    return made


@dataclass(frozen=True)
class Unit:
    number: int
    directory: str
    deadly: bool = False

    @property
    def label(self) -> str:
        return f"unit-{self.number:05d}-000 (7 documents, 1 MiB of text)"


def work(unit: Unit, _: object) -> int:
    began = time.time()
    if unit.deadly:
        time.sleep(0.05)
        Path(unit.directory, f"{unit.number}-died-{began}-{time.time()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    Path(unit.directory, f"{unit.number}-done-{began}-{time.time()}").touch()
    return unit.number


def spans(directory: Path, kind: str) -> list[tuple[int, float, float]]:
    found = [path.name.split("-") for path in directory.iterdir()]
    return [(int(n), float(begin), float(end)) for n, what, begin, end in found if what == kind]


@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize("keep", [False, True])
def test_an_item_that_kills_its_workers_fails_alone_and_last(
    make: Callable[[str], Runner], name: str, keep: bool, tmp_path: Path
) -> None:
    deadly = (4, 9) if name == "local-2" else (4,)  # Ray takes 2 s to replace a worker
    units = [Unit(number, str(tmp_path), number in deadly) for number in range(20)]
    done = []
    with closing(make(name)) as runner:
        with pytest.raises(WorkerError) as caught:
            for index, result in runner.run(work, units, None, keep):
                assert index == result
                done.append(index)
        deaths = spans(tmp_path, "died")
        assert runner.usage.lost_workers == len(deaths)
        assert sorted(runner.run(work, units[:3])) == [(0, 0), (1, 1), (2, 2)]
    assert sorted(done) == [n for n in range(20) if n not in deadly]
    if name == "ray" and keep and len(deaths) > 3:
        # An actor that was killed before it had sent the reply of the item before: that one is
        # taken for the cause, and both run again (penstock.pipeline.runners.on_ray, _Actors).
        assert {number for number, _, _ in deaths} == {4}
        assert len([n for n, _, _ in spans(tmp_path, "done")]) > 19
    else:
        assert sorted(number for number, _, _ in deaths) == sorted(3 * deadly)
    error = caught.value
    assert error.problem.startswith("unit-00004-000 (7 documents, 1 MiB of text): ")
    assert "3 times" in error.problem
    assert error.fix is not None
    assert ("memory" in str(error)) == (name == "ray")  # here the kernel says what it killed
    if name != "ray":
        assert "SIGKILL" in error.problem
        assert "1 of 19" in error.fix and "unit-00009-000 (7 documents" in error.fix
        first = {n: min(b for m, b, _ in deaths if m == n) for n in deadly}
        for number, begin, end in deaths:
            if begin > first[number]:
                beside = [n for n, b, e in spans(tmp_path, "done") if b < end and e > begin]
                assert beside == [], "a suspect was not alone"


def crash(_: int, how: str) -> None:
    if how == "segfault":
        ctypes.string_at(1)
    elif how == "exit":
        os._exit(7)
    else:
        sys.exit(3)


@pytest.mark.parametrize(
    "how, kind, named",
    [
        ("segfault", WorkerError, "SIGSEGV"),
        ("exit", WorkerError, "status 7"),
        ("sys.exit", Failure, "exit (3)"),
    ],
)
def test_the_error_names_how_a_worker_ended(how: str, kind: type[Failure], named: str) -> None:
    for items in ([0, 1], [0]):  # a single item runs in a worker, too
        with closing(LocalRunner(2)) as runner, pytest.raises(kind) as caught:
            list(runner.run(crash, items, how))
        assert type(caught.value) is kind
        assert caught.value.problem.startswith("0: ")
        assert named in caught.value.problem
        assert "memory" not in str(caught.value)


def exhaust(number: int, _: object) -> int:
    if number == 1:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        np.zeros(2 << 30, np.uint8)
    return number


def test_an_allocation_that_fails_names_the_settings_to_lower() -> None:
    with closing(LocalRunner(2)) as runner, pytest.raises(WorkerError) as caught:
        list(runner.run(exhaust, [0, 1, 2, 3]))
    assert caught.value.problem.startswith("1: out of memory")
    assert caught.value.fix == MORE_MEMORY
    assert "_ArrayMemoryError" in str(caught.value.__cause__)


def pid(number: int, _: object) -> int:
    time.sleep(0.01)
    return os.getpid()


def test_a_worker_that_died_idle_is_replaced_and_blames_nothing() -> None:
    with closing(LocalRunner(2)) as runner:
        for _ in range(4):
            pids = {worker for _, worker in runner.run(pid, list(range(12)))}
            assert len(pids) == 2
            for worker in pids:
                os.kill(worker, signal.SIGKILL)
        assert len(dict(runner.run(pid, list(range(12))))) == 12


@pytest.mark.parametrize("in_flight", [1, 4])
def test_workers_killed_at_any_moment_change_no_result(
    in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While they start, read, work or answer; twelve times in some hundreds of items."""
    # On a loaded machine workers start slowly, and most of the kills meet one that starts.
    monkeypatch.setattr(local, "_FAILED_STARTS", 1000)
    monkeypatch.setattr(schedule, "_ATTEMPTS", 13)  # and may meet one item again and again

    def double(number: int, table: np.ndarray) -> int:  # sent by value: workers start faster
        time.sleep(0.005)
        return 2 * number + int(table[number])

    drawn = random.Random(7)
    killed: list[int] = []
    over = threading.Event()
    others = {child.pid for child in psutil.Process().children()}  # shared by other tests

    def is_worker(child: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):  # it has just gone, or nobody has waited for it
            return "serve(" in str(child.cmdline())
        return False

    def kill() -> None:
        while len(killed) < 12 and not over.is_set():
            time.sleep(drawn.uniform(0.1, 0.4))
            children = [c for c in psutil.Process().children() if c.pid not in others]
            workers = [child for child in children if is_worker(child)]
            if workers:
                victim = drawn.choice(workers)
                victim.kill()
                killed.append(victim.pid)

    with closing(LocalRunner(2, in_flight=in_flight)) as runner:
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            while len(killed) < 12:
                found = sorted(runner.run(double, list(range(150)), np.ones(150, np.uint8)))
                assert found == [(n, 2 * n + 1) for n in range(150)]
        finally:
            over.set()
            killer.join()
        assert runner.usage.lost_workers >= 5


def test_workers_that_cannot_start_are_a_clear_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with closing(LocalRunner(2)) as runner, pytest.raises(Failure) as caught:
        list(runner.run(pid, [1, 2, 3]))
    assert "status 1" in caught.value.problem
    assert caught.value.fix is not None and "--workers 1" in caught.value.fix


DRIVER = """
import os, time
from penstock.pipeline.runner import LocalRunner

def hold(number, how):
    os.write(1, b"%d\\n" % number)  # in one write, since two workers share the pipe
    sum(range(10**10)) if how == "busy" else time.sleep(600)

import sys
list(LocalRunner(2).run(hold, [1, 2, 3, 4, 5], sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["busy", "asleep"])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_driver(how: str, by: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), how],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # where workers print
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert driver.stderr is not None
    assert {driver.stderr.readline(), driver.stderr.readline()} == {b"1\n", b"2\n"}
    workers = psutil.Process(driver.pid).children(recursive=True)
    assert len(workers) == 2
    driver.send_signal(by)
    _, alive = psutil.wait_procs(workers, timeout=5)
    for worker in alive:
        worker.kill()
    driver.wait(10)
    driver.stderr.close()
    assert not alive


# -- what Ray cannot place --------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_resources_that_no_node_has_are_named(
    ray_session: None, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_PLACING_HERE", 0.5)
    monkeypatch.setattr(placement, "_PLACING", 0.5)
    needs = Resources(gpus=1, by="select.x")
    with pytest.raises(Failure) as caught:
        list(RayRunner().run(pid, [1, 2], None, keep, needs=needs))
    assert caught.value.key == "select.x"
    assert "1 GPU" in str(caught.value.expected) and "0 GPUs" in str(caught.value.got)
    needs = Resources(cpus=64, memory=1 << 50)
    with pytest.raises(Failure) as caught:
        list(RayRunner().run(pid, [1, 2], None, keep, needs=needs))
    assert "64 CPUs, 1048576.0 GiB of memory" in str(caught.value.expected)
    assert "2 CPUs, " in str(caught.value.got)


@pytest.mark.parametrize("keep", [False, True])
def test_needs_limit_what_runs_at_once(ray_session: None, keep: bool, tmp_path: Path) -> None:
    units = [Unit(number, str(tmp_path)) for number in range(8)]
    assert len(list(RayRunner().run(work, units, None, keep, needs=Resources(cpus=2)))) == 8
    done = sorted((begin, end) for _, begin, end in spans(tmp_path, "done"))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(done))


def test_needs_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs\.gpus: expected zero or more, got -1"):
        Resources(gpus=-1)
