"""Who does the work: one protocol, one process pool, one thin loop over Ray.

A stage hands a runner a module-level function and a list of small items; the runner calls
``function(item, state)`` for each, side by side, and yields results as they complete. What a
function writes and returns may depend on its item and the state alone, so that every runner
leaves the same bytes. Results are small records, never tables.

Why not Ray Data: over 16 files on two CPUs it took 2.6 s warm where a ``ray.wait`` loop over tasks
took 0.2-0.65 s, and it neither keeps row order through a write nor resumes a whole pipeline.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import itertools
import os
import pickle
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import loky
from loky.process_executor import TerminatedWorkerError

from penstock.cluster import connect
from penstock.errors import Failure, PenstockError

__all__ = ["LocalRunner", "RayRunner", "Runner", "in_order", "open_runner"]

Result = TypeVar("Result")
Work = Callable[[Any, Any], Result]

_IN_FLIGHT = 2
"""Items under way or waiting for each slot: enough to hide hand-over, little enough to hold."""

_SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""One thread a worker: slots already fill the cores, and sums never depend on the thread count."""


class Runner(Protocol):
    """Calls a function for many items, wherever there is room."""

    name: str

    @property
    def slots(self) -> int:
        """Items that can be worked on at once."""
        ...

    def run(
        self,
        function: Work[Result],
        items: Sequence[Any],
        shared: Any = None,
        setup: Callable[[Any], Any] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Yield ``(index, function(items[index], state))`` in the order of completion.

        Args:
            function: Module-level; called with an item and the state.
            items: Small and picklable.
            shared: Travels once to each worker; it is the state where there is no ``setup``.
            setup: ``setup(shared)`` makes the state, once in each worker, for work that keeps a
                model loaded.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def in_order(runner: Runner) -> Callable[..., Iterator[Any]]:
    """A runner as a selector's ``Spread``: results in the items' order."""

    def spread(function: Work[Any], items: Sequence[Any], shared: Any = None) -> Iterator[Any]:
        waiting: dict[int, Any] = {}
        wanted = 0
        for index, result in runner.run(function, items, shared):
            waiting[index] = result
            while wanted in waiting:
                yield waiting.pop(wanted)
                wanted += 1

    return spread


def open_runner(kind: str = "auto", workers: int | None = None) -> Runner:
    """The runner that a command asked for.

    Args:
        kind: ``local``, ``ray``, or ``auto``: Ray where ``RAY_ADDRESS`` is set, else local.
        workers: Processes of a local runner, or CPUs of a Ray started here; all CPUs by default.
    """
    if kind == "auto":
        kind = "ray" if os.environ.get("RAY_ADDRESS") else "local"
    return RayRunner(workers) if kind == "ray" else LocalRunner(workers)


class LocalRunner:
    """A process pool on this machine, or a plain loop where one worker is asked for."""

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.slots = workers or len(os.sched_getaffinity(0))
        self._pool: loky.ProcessPoolExecutor | None = None

    def run(
        self,
        function: Work[Result],
        items: Sequence[Any],
        shared: Any = None,
        setup: Callable[[Any], Any] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        if self.slots == 1 or len(items) == 1:
            state = setup(shared) if setup else shared
            for index, item in enumerate(items):
                yield index, function(item, state)
            return
        if not items:
            return
        with tempfile.TemporaryDirectory(prefix="penstock-") as directory:
            parcel = Path(directory) / "state"
            parcel.write_bytes(cloudpickle.dumps((shared, setup), protocol=5))
            yield from self._drain(function, items, parcel)

    def _drain(
        self, function: Work[Result], items: Sequence[Any], parcel: Path
    ) -> Iterator[tuple[int, Result]]:
        pool = self._started()
        todo = iter(enumerate(items))
        running: dict[concurrent.futures.Future[Result], int] = {}
        try:
            while True:
                for index, item in itertools.islice(todo, self.slots * _IN_FLIGHT - len(running)):
                    running[pool.submit(_in_pool, function, item, parcel)] = index
                if not running:
                    return
                finished, _ = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in finished:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            self._pool = None
            if isinstance(error, TerminatedWorkerError):
                raise Failure(
                    "a worker process was killed, most likely for memory; run again with fewer "
                    "--workers: what is finished is kept"
                ) from None
            raise Failure(f"a worker's answer could not be carried over: {error}") from error
        finally:
            for future in running:
                future.cancel()
            concurrent.futures.wait(running)

    def _started(self) -> loky.ProcessPoolExecutor:
        if self._pool is None:
            # Loky's workers do not import the caller's main module, so a script needs no guard.
            self._pool = loky.ProcessPoolExecutor(
                self.slots,
                env=_SINGLE_THREADED,
                initializer=_prepare_worker,
                initargs=(list(sys.path),),
                timeout=None,
            )
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(kill_workers=True)
            self._pool = None


_state: tuple[Any, Any] = (None, None)
"""In a worker: the state of the run at hand, after what tells that run from others."""


def _in_pool(function: Work[Result], item: Any, parcel: Path) -> Result:
    global _state
    with _portable_errors():
        if _state[0] != parcel:
            shared, setup = pickle.loads(parcel.read_bytes())  # noqa: S301  our driver wrote it
            _state = (parcel, setup(shared) if setup else shared)
        return function(item, _state[1])


@contextlib.contextmanager
def _portable_errors() -> Iterator[None]:
    """What cannot be unpickled by the driver would break the pool there: send its text."""
    try:
        yield
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301  made here
        except Exception:
            raise Failure(f"{type(error).__name__}: {error}") from error
        raise


def _prepare_worker(path: list[str]) -> None:
    sys.path[:] = path
    # Loky takes a worker that holds a unit of text for one that leaks, and restarts it.
    loky.process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize


class RayRunner:
    """Tasks on Ray, and actors where a model must stay loaded.

    Attaches to ``RAY_ADDRESS``, else starts Ray on this machine. Lost workers are replaced and
    their items done again, three times.
    """

    name = "ray"

    def __init__(self, workers: int | None = None) -> None:
        self._ray = connect(workers)

    @property
    def slots(self) -> int:
        """CPUs of the cluster as it is now; one while an autoscaled cluster has none yet."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def run(
        self,
        function: Work[Result],
        items: Sequence[Any],
        shared: Any = None,
        setup: Callable[[Any], Any] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        if not items:
            return
        parcel = self._ray.put(cloudpickle.dumps((function, shared, setup), protocol=5))
        drain = self._with_actors if setup else self._with_tasks
        try:
            yield from drain(items, parcel)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, PenstockError) else error
            raise cause from None
        except self._ray.exceptions.RayError as error:
            raise Failure(f"Ray lost a worker for good: {error}; run again to go on") from None

    def _with_tasks(self, items: Sequence[Any], parcel: Any) -> Iterator[tuple[int, Any]]:
        run = uuid.uuid4().hex
        task = self._ray.remote(num_cpus=1, max_retries=3)(_in_task)
        todo = iter(enumerate(items))
        running: dict[Any, int] = {}
        try:
            while True:
                # No slots are left over when an autoscaled cluster has just shrunk.
                room = max(0, self.slots * _IN_FLIGHT - len(running))
                for index, item in itertools.islice(todo, room):
                    running[task.remote(run, sys.path, parcel, item)] = index
                if not running:
                    return
                (done, *_), _ = self._ray.wait(list(running), num_returns=1)
                yield running.pop(done), self._ray.get(done)
        finally:
            # Nothing of a run that was given up may still write when the next one begins.
            for unwanted in running:
                self._ray.cancel(unwanted)
            if running:
                self._ray.wait(list(running), num_returns=len(running))

    def _with_actors(self, items: Sequence[Any], parcel: Any) -> Iterator[tuple[int, Any]]:
        keeper = self._ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)(_Keeper)
        actors = [keeper.remote(sys.path, parcel) for _ in range(min(self.slots, len(items)))]
        todo = iter(enumerate(items))
        # Work goes only to actors that have answered: a full cluster may never place them all.
        busy: dict[Any, tuple[Any, int | None]] = {
            actor.ready.remote(): (actor, None) for actor in actors
        }
        left = len(items)
        try:
            while left:
                (done, *_), _ = self._ray.wait(list(busy), num_returns=1)
                actor, index = busy.pop(done)
                result = self._ray.get(done)
                for following, item in itertools.islice(todo, 1):
                    busy[actor.call.remote(item)] = (actor, following)
                if index is not None:
                    left -= 1
                    yield index, result
        finally:
            for actor in actors:
                self._ray.kill(actor)

    def close(self) -> None:
        """Nothing is held between runs; Ray itself stays for what this process does next."""


def _unpacked(path: list[str], parcel: bytes) -> tuple[Work[Any], Any, Any]:
    """Function, shared and setup of a run, found where the driver finds its modules."""
    sys.path.extend(place for place in path if place not in sys.path)
    function, shared, setup = pickle.loads(parcel)  # noqa: S301  our driver made it
    return function, shared, setup


def _in_task(run: str, path: list[str], parcel: bytes, item: Any) -> Any:
    global _state
    with _portable_errors():
        if _state[0] != run:
            _state = (run, _unpacked(path, parcel))
        function, shared, _ = _state[1]
        return function(item, shared)


class _Keeper:
    """A Ray actor that keeps the state of a run.

    The state is made by the first call, not by the constructor: Ray reports what a constructor
    raises as a dead actor, and not as the error that it was.
    """

    def __init__(self, path: list[str], parcel: bytes) -> None:
        self._path = path
        self._parcel = parcel

    @functools.cached_property
    def _made(self) -> tuple[Work[Any], Any]:
        function, shared, setup = _unpacked(self._path, self._parcel)
        state = setup(shared)
        self._parcel = b""  # the state may be large, and its pickle as large again
        return function, state

    def ready(self) -> None:
        with _portable_errors():
            _ = self._made

    def call(self, item: Any) -> Any:
        with _portable_errors():
            function, state = self._made
            return function(item, state)
