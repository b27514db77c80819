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
from typing import Any

import numpy as np
import psutil
import pytest

from penstock.errors import Failure, WorkerError
from penstock.pipeline.runner import LocalRunner, RayRunner, Runner
from penstock.pipeline.runners import placement
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


def same(shared: Any) -> Any:
    return shared


@pytest.mark.parametrize("name", PARALLEL)
@pytest.mark.parametrize("setup", [None, same])
def test_an_item_that_kills_its_workers_fails_alone_and_last(
    make: Callable[[str], Runner], name: str, setup: Any, tmp_path: Path
) -> None:
    deadly = (4, 9) if name == "local-2" else (4,)  # Ray takes 2 s to replace a worker
    units = [Unit(number, str(tmp_path), number in deadly) for number in range(20)]
    done = []
    message = r"^unit-00004-000 \(7 documents, 1 MiB of text\): its worker .*, 3 times"
    with closing(make(name)) as runner:
        with pytest.raises(WorkerError, match=message) as caught:
            for index, result in runner.run(work, units, None, setup):
                assert index == result
                done.append(index)
        assert runner.usage.lost_workers == 3 * len(deadly)
        assert sorted(runner.run(work, units[:3])) == [(0, 0), (1, 1), (2, 2)]
    assert sorted(done) == [n for n in range(20) if n not in deadly]
    deaths = spans(tmp_path, "died")
    assert sorted(number for number, _, _ in deaths) == sorted(3 * deadly)
    if name == "ray":
        assert "or memory did not suffice: run again with fewer --workers" in str(caught.value)
    else:
        assert "was killed by SIGKILL, 3 times, most likely for memory" in str(caught.value)
        assert "fewer --workers" in str(caught.value)
        assert "clean.max_document_bytes" in str(caught.value)
        assert "; 1 of 19 others failed too: unit-00009-000 (7 documents" in str(caught.value)
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
    "how, kind, message",
    [
        ("segfault", WorkerError, r"^0: its worker was killed by SIGSEGV, 3 times.*stderr"),
        ("exit", WorkerError, r"^0: its worker exited with status 7, 3 times"),
        ("sys.exit", Failure, r"^0: the function asked its process to exit \(3\)"),
    ],
)
def test_how_a_worker_ended_is_said(how: str, kind: type, message: str) -> None:
    for items in ([0, 1], [0]):  # a single one is no reason to do it in the driver
        with closing(LocalRunner(2)) as runner, pytest.raises(kind, match=message) as caught:
            list(runner.run(crash, items, how))
        assert "memory" not in str(caught.value)


def exhaust(number: int, _: object) -> int:
    if number == 1:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.RLIM_INFINITY))
        np.zeros(2 << 30, np.uint8)
    return number


def test_memory_that_is_refused_says_what_to_set() -> None:
    message = r"^1: out of memory .*fewer --workers"
    with closing(LocalRunner(2)) as runner, pytest.raises(WorkerError, match=message) as caught:
        list(runner.run(exhaust, [0, 1, 2, 3]))
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
def test_workers_killed_at_any_moment_change_no_result(in_flight: int) -> None:
    """Starting, reading, at work, answering; twelve times in some hundreds of items."""

    def double(number: int, table: np.ndarray) -> int:  # sent by value: workers start faster
        time.sleep(0.005)
        return 2 * number + int(table[number])

    drawn = random.Random(7)
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(killed) < 12 and not over.is_set():
            time.sleep(drawn.uniform(0.1, 0.4))
            with contextlib.suppress(psutil.Error):  # it has just gone
                workers = [c for c in psutil.Process().children() if "serve(" in str(c.cmdline())]
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
    message = r"worker process exited with status 1 before it was up"
    with closing(LocalRunner(2)) as runner, pytest.raises(Failure, match=message):
        list(runner.run(pid, [1, 2, 3]))


DRIVER = """
import time
from penstock.pipeline.runner import LocalRunner

def hold(number, how):
    print(number, flush=True)
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


@pytest.mark.parametrize("setup", [None, same])
def test_what_no_node_has_is_named(
    ray_session: None, setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "_PLACING_HERE", 0.5)
    monkeypatch.setattr(placement, "_PLACING", 0.5)
    needs = Resources(gpus=1, by="select.x")
    with pytest.raises(Failure, match=r"^select\.x asks for 1 GPU, .*had more than 0 GPUs; add"):
        list(RayRunner().run(pid, [1, 2], None, setup, needs=needs))
    needs = Resources(cpus=64, memory=1 << 50)
    with pytest.raises(Failure, match=r"asks for 64 CPUs, 1048576\.0 GiB of memory, .* 2 CPUs, "):
        list(RayRunner().run(pid, [1, 2], None, setup, needs=needs))


@pytest.mark.parametrize("setup", [None, same])
def test_needs_limit_what_runs_at_once(ray_session: None, setup: Any, tmp_path: Path) -> None:
    units = [Unit(number, str(tmp_path)) for number in range(8)]
    assert len(list(RayRunner().run(work, units, None, setup, needs=Resources(cpus=2)))) == 8
    done = sorted((begin, end) for _, begin, end in spans(tmp_path, "done"))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(done))


def test_needs_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs\.gpus: expected zero or more, got -1"):
        Resources(gpus=-1)
