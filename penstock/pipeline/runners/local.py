"""The local runner: worker processes, or a plain loop in the driver for one worker.

A user's scorer may crash its process, so even a single item is sent to a worker: starting one takes
0.2 to 0.4 s, once a command. With one worker everything runs in the driver, for a debugger or where
no process may be started; a crash there ends the driver.
"""

from __future__ import annotations

import collections
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from penstock.calls import Call
from penstock.cluster import cpus
from penstock.errors import Failure
from penstock.pipeline.runners.attempt import attempt
from penstock.pipeline.runners.schedule import Completed, Usage, WorkerLost, drain
from penstock.pipeline.runners.worker import SharedState, Worker
from penstock.resources import Resources
from penstock.temporary import temporary_directory

__all__ = ["LocalRunner", "killed_for_memory"]

_POLL_SECONDS = 1.0
"""Time without a message after which the processes are checked."""

_EXIT_SECONDS = 5.0
"""Time for a process that has closed its pipe to exit."""

_FAILED_STARTS = 10
"""Workers in a row that may end before they are ready; each takes a tenth of a second."""


class LocalRunner:
    """Worker processes on this machine, kept from run to run; none if ``workers`` is 1.

    Args:
        workers: Processes; by default one for each CPU that this process may use.
        in_flight: Items queued at each worker while many are left: the second item hides the
            hand-over of 0.1 ms and the caller's work on a result.
    """

    name = "local"

    def __init__(self, workers: int | None = None, in_flight: int = 2) -> None:
        self.slots = workers or cpus()
        self.usage = Usage()
        self._in_flight = in_flight
        self._idle: list[Worker] = []

    def run(
        self,
        function: Callable[[Any, Any], Any],
        items: Sequence[Any],
        shared: Any = None,
        keep_state: bool = False,  # local workers always do
        needs: Resources | None = None,
        ordered: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        if self.slots == 1:
            yield from drain(
                _InlinePool(function, shared), items, self.usage, ordered, function=function
            )
            return
        with temporary_directory("state-") as directory:
            state_file = directory / "state"
            SharedState.of((function, shared)).save(state_file)
            pool = _Processes(self.slots, self._in_flight, self._idle, state_file)
            yield from drain(pool, items, self.usage, ordered, isolate=True, function=function)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()


def killed_for_memory() -> int | None:
    """Return how many processes the kernel has killed for lack of memory, in containers too.

    Returns:
        The number since the machine started; None where the kernel does not say.
    """
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


class _InlinePool:
    """The driver itself, as a pool that runs one item after another."""

    slots = 1
    in_flight = 1

    def __init__(self, function: Any, shared: Any) -> None:
        self._parts = function, shared
        self._given: list[tuple[int, Any]] = []

    def room(self, left: int) -> bool:
        return not self._given

    def give(self, index: int, item: Any) -> None:
        self._given.append((index, item))

    def next(self) -> Completed:
        index, item = self._given.pop()
        return Completed(index, attempt(lambda: self._parts, item))

    def stop(self) -> None:
        pass


class _Processes:
    """Worker processes of one run: idle ones are reused, others started, all kept afterwards."""

    def __init__(self, slots: int, in_flight: int, idle: list[Worker], state_file: Path) -> None:
        self.slots = slots
        self.in_flight = in_flight
        self._idle = idle
        self._state_file = state_file
        self._workers: list[Worker] = []
        self._readable: collections.deque[Worker] = collections.deque()
        self._crashed: dict[int, list[Call]] = {}
        """Calls of plug-ins in which workers were lost, by the item."""
        self._failed_starts = 0
        self._killed_before = killed_for_memory()

    def room(self, left: int) -> bool:
        if any(not worker.given for worker in self._workers) or len(self._workers) < self.slots:
            return True
        # The last items go to the first free worker, and never wait behind a long item.
        return left > self.slots and len(self._least().given) < self.in_flight

    def give(self, index: int, item: Any) -> None:
        worker = self._least() if self._workers else None
        if worker is None or (worker.given and len(self._workers) < self.slots):
            worker = self._acquire()
            self._workers.append(worker)
        worker.give(index, item, self._state_file, self._crashed.get(index, ()))

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
            ready = set(
                wait([worker.connection for worker in self._workers], timeout=_POLL_SECONDS)
            )
            self._readable.extend(w for w in self._workers if w.connection in ready)
            if not ready:
                dead = [w for w in self._workers if w.dead and not w.connection.poll()]
                return self._remove_dead(dead[0]) if dead else None
        worker = self._readable.popleft()
        if worker not in self._workers:
            return None
        index = worker.given[0] if worker.given else None
        try:
            outcome = worker.receive()
        except EOFError:
            return self._remove_dead(worker)
        self._failed_starts = 0
        return None if outcome is None else Completed(index, outcome)

    def _remove_dead(self, worker: Worker) -> WorkerLost:
        self._workers.remove(worker)
        ending = worker.end(_EXIT_SECONDS)
        given = tuple(worker.given)
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == _FAILED_STARTS:
                raise Failure(
                    f"a worker process {ending.reason} before it was ready, {_FAILED_STARTS} times",
                    fix="see stderr for the reason, or run with --workers 1, which starts none",
                )
            return WorkerLost(ending.reason, queued=given)
        if given and worker.call is not None:
            self._crashed.setdefault(given[0], []).append(worker.call)
        return WorkerLost(
            ending.reason,
            call=worker.call,
            at=given[0] if given else None,
            queued=given[1:],
            memory=self._for_memory() if ending.by == signal.SIGKILL else False,
            peak_bytes=ending.peak_bytes,
        )

    def _for_memory(self) -> bool | None:
        """Return whether the kernel has killed a process for lack of memory during this run."""
        now = killed_for_memory()
        return None if now is None or self._killed_before is None else now > self._killed_before

    def stop(self) -> None:
        for worker in self._workers:
            if worker.given or len(self._idle) >= self.slots:
                worker.end()
            else:
                self._idle.append(worker)
        self._workers.clear()
