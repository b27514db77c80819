"""Work on this machine: a plain loop where one worker is asked for, else worker processes.

A stranger's scorer may take its process down, so even a single item goes to a worker: 0.2 to 0.4 s
to start one, once a command. One worker is the way to have everything in the driver, for a debugger
or where no process may be started; there what ends the process ends the driver.
"""

from __future__ import annotations

import collections
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from penstock.cluster import cpus
from penstock.errors import Failure
from penstock.pipeline.runners.attempt import attempt
from penstock.pipeline.runners.schedule import drain
from penstock.pipeline.runners.shared_state import SharedState
from penstock.pipeline.runners.worker import Worker
from penstock.pipeline.runners.worker_pool import Completed, Usage, WorkerLost
from penstock.resources import Resources

__all__ = ["LocalRunner"]

Result = TypeVar("Result")

_PULSE = 1.0
"""Seconds after which workers are looked at that said nothing."""

_PATIENCE = 5.0
"""Seconds for a process that has closed its pipe to be gone."""

_FAILED_STARTS = 10
"""Workers in a row that may end before they are up; each takes a tenth of a second."""


class LocalRunner:
    """Worker processes on this machine, kept from run to run; none where one worker is asked for.

    Args:
        workers: Processes; as many as this process may use CPUs by default.
        in_flight: Items that each is given at once, while many are left: the second hides the
            hand-over of 0.1 ms and what the caller does with a result.
    """

    name = "local"

    def __init__(self, workers: int | None = None, in_flight: int = 2) -> None:
        self.slots = workers or cpus()
        self.usage = Usage()
        self._in_flight = in_flight
        self._idle: list[Worker] = []

    def run(
        self,
        function: Callable[[Any, Any], Result],
        items: Sequence[Any],
        shared: Any = None,
        setup: Callable[[Any], Any] | None = None,
        needs: Resources | None = None,
        ordered: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        if not items:
            return
        if self.slots == 1:
            yield from drain(_InlinePool(function, shared, setup), items, self.usage, ordered)
            return
        with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
            parcel = Path(directory) / "state"
            SharedState.of((function, shared, setup)).save(parcel)
            crew = _Processes(self.slots, self._in_flight, self._idle, parcel)
            yield from drain(crew, items, self.usage, ordered, isolate=True)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()


class _InlinePool:
    """The driver itself, for one item after another."""

    slots = 1
    in_flight = 1

    def __init__(self, function: Any, shared: Any, setup: Any) -> None:
        self._made: list[tuple[Any, Any]] = []
        self._parts = function, shared, setup
        self._given: list[tuple[int, Any]] = []

    def _prepare(self) -> tuple[Any, Any]:
        if not self._made:
            function, shared, setup = self._parts
            self._made.append((function, setup(shared) if setup else shared))
        return self._made[0]

    def room(self, left: int) -> bool:
        return not self._given

    def give(self, index: int, item: Any) -> None:
        self._given.append((index, item))

    def next(self) -> Completed:
        index, item = self._given.pop()
        return Completed(index, attempt(self._prepare, item))

    def stop(self) -> None:
        pass


class _Processes:
    """Worker processes for one run: taken from the idle ones, made as needed, given back."""

    def __init__(self, slots: int, in_flight: int, idle: list[Worker], parcel: Path) -> None:
        self.slots = slots
        self.in_flight = in_flight
        self._idle = idle
        self._parcel = parcel
        self._workers: list[Worker] = []
        self._readable: collections.deque[Worker] = collections.deque()
        self._failed_starts = 0

    def room(self, left: int) -> bool:
        if any(not worker.given for worker in self._workers) or len(self._workers) < self.slots:
            return True
        # The last items go to whoever is free first, and never wait behind a long one.
        return left > self.slots and len(self._least().given) < self.in_flight

    def give(self, index: int, item: Any) -> None:
        worker = self._least() if self._workers else None
        if worker is None or (worker.given and len(self._workers) < self.slots):
            worker = self._acquire()
            self._workers.append(worker)
        worker.give(index, item, self._parcel)

    def _acquire(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if not worker.dead:
                return worker
            worker.end()
        return Worker()

    def _least(self) -> Worker:
        return min(self._workers, key=lambda worker: len(worker.given))

    def next(self) -> Completed | WorkerLost | None:
        while not self._readable:
            ready = set(wait([worker.connection for worker in self._workers], timeout=_PULSE))
            self._readable.extend(w for w in self._workers if w.connection in ready)
            if not ready:
                dead = [w for w in self._workers if w.dead and not w.connection.poll()]
                return self._lost(dead[0]) if dead else None
        worker = self._readable.popleft()
        if worker not in self._workers:
            return None
        index = worker.given[0] if worker.given else None
        try:
            answer = worker.receive()
        except EOFError:
            return self._lost(worker)
        self._failed_starts = 0
        return None if answer is None else Completed(index, answer)

    def _lost(self, worker: Worker) -> WorkerLost:
        self._workers.remove(worker)
        ending = worker.end(_PATIENCE)
        given = tuple(worker.given)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == _FAILED_STARTS:
                raise Failure(
                    f"a worker process {ending.reason} before it was up, {_FAILED_STARTS} times; "
                    "stderr may say why; or run with --workers 1, which starts none"
                )
            return WorkerLost(ending.reason, queued=given)
        return WorkerLost(
            ending.reason,
            at=given[0] if given else None,
            queued=given[1:],
            memory=ending.by == signal.SIGKILL,
            peak_bytes=ending.peak_bytes,
        )

    def stop(self) -> None:
        for worker in self._workers:
            if worker.given or len(self._idle) >= self.slots:
                worker.end()
            else:
                self._idle.append(worker)
        self._workers.clear()
