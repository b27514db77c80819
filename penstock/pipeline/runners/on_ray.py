"""The Ray runner: tasks, or actors where a model must stay loaded.

Ray only places and transports. Its own retries are off: whether an item is run again is decided by
:mod:`penstock.pipeline.runners.schedule`, as for every runner.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import pickle
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from penstock.cluster import connect, extend_path
from penstock.errors import Failure
from penstock.own_modules import OwnModules
from penstock.pipeline.runners.attempt import AttemptResult, attempt, portable
from penstock.pipeline.runners.counting import RayCounts, counts_of, send_to
from penstock.pipeline.runners.placement import Placement
from penstock.pipeline.runners.schedule import Completed, Usage, WorkerLost, drain
from penstock.pipeline.runners.worker import SharedState
from penstock.resources import Resources

__all__ = ["RayRunner"]

_POLL_SECONDS = 1.0
"""Time to wait for an event."""

_STOP_SECONDS = 10.0
"""Time for work to end when it is interrupted, before its process is killed."""

_FAILED_STARTS = 3
"""Actors in a row that may end before they are ready."""


class RayRunner:
    """Runs items on the cluster at ``RAY_ADDRESS``, or on a Ray that it starts on this machine.

    Args:
        workers: CPUs of a Ray started here; all by default.
        in_flight: Items queued for each slot.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, in_flight: int = 2) -> None:
        self._ray = connect(workers)
        self._in_flight = in_flight
        self.usage = Usage()

    @property
    def slots(self) -> int:
        """CPUs of the cluster now; 1 while an autoscaled cluster has none yet."""
        return Placement(self._ray, Resources()).slots

    def run(
        self,
        function: Callable[[Any, Any], Any],
        items: Sequence[Any],
        shared: Any = None,
        keep_state: bool = False,
        needs: Resources | None = None,
        ordered: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        if not items:
            return
        state = self._ray.put(SharedState.of((function, shared)))
        placement = Placement(self._ray, needs or Resources())
        counts = counts_of(self._ray, sys.path)
        pool = (_Actors if keep_state else _Tasks)(placement, self._in_flight, state, counts)
        try:
            yield from drain(pool, items, self.usage, ordered, function=function)
        except self._ray.exceptions.RayError as error:
            raise Failure(
                f"Ray does not answer: {_short(error)}", fix="run again to go on"
            ) from error

    def close(self) -> None:
        """Do nothing: no worker is held between runs, and Ray itself stays for later runs."""


class _RayPool:
    """State that pools of tasks and of actors share."""

    def __init__(self, placement: Placement, in_flight: int, state: Any, counts: RayCounts) -> None:
        self.counts = counts
        self._placement = placement
        self._ray = placement.ray
        self.in_flight = in_flight
        self._state = state
        self._ready: collections.deque[Any] = collections.deque()

    @property
    def slots(self) -> int:
        return self._placement.slots


class _Tasks(_RayPool):
    """A pool that runs each item as a Ray task."""

    def __init__(self, placement: Placement, in_flight: int, state: Any, counts: RayCounts) -> None:
        super().__init__(placement, in_flight, state, counts)
        self._task = self._ray.remote(max_retries=0, **placement.options())(_in_task)
        self._run = uuid.uuid4().hex
        self._running: dict[Any, int] = {}
        self._placed = False

    def room(self, left: int) -> bool:
        return len(self._running) < self.slots * self.in_flight

    def give(self, index: int, item: Any) -> None:
        packed = cloudpickle.dumps((OwnModules(), item), protocol=5)
        shared = (self._run, sys.path, self._state, self.counts.actor)
        self._running[self._task.remote(*shared, packed)] = index

    def next(self) -> Completed | WorkerLost | None:
        self.counts.poll()
        if not self._ready:
            self._ready.extend(_finished(self._ray, list(self._running)))
        if not self._ready:
            if not self._placed:
                self._placement.check()
            return None
        self._placed = True
        done = self._ready.popleft()
        index = self._running.pop(done)
        outcome = _fetch(self._ray, done)
        if isinstance(outcome, AttemptResult):
            return Completed(index, outcome)
        return _worker_lost(outcome, at=index)

    def stop(self) -> None:
        # No item of an abandoned run may still write when the next run begins.
        left = list(self._running)
        for force in (False, True):
            for unwanted in left:
                self._ray.cancel(unwanted, force=force)
            if left:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=_STOP_SECONDS)


class _Actors(_RayPool):
    """A pool of actors that keep the state: as many as fit, replaced when they end."""

    def __init__(self, placement: Placement, in_flight: int, state: Any, counts: RayCounts) -> None:
        super().__init__(placement, in_flight, state, counts)
        options = {"max_restarts": 0, "max_task_retries": 0, **placement.options()}
        self._actor = self._ray.remote(**options)(_StateActor)
        self._calls: dict[Any, Any] = {}
        """Actors by the reference of the call that they run."""

        self._given: dict[Any, dict[Any, int]] = {}
        """For each ready actor, its calls and their items, in the order they were sent."""

        self._starting: set[Any] = set()
        self._events: collections.deque[Completed | WorkerLost] = collections.deque()
        """Events that :meth:`next` has not returned yet: a dead actor gives several at once."""

        self._failed_starts = 0

    def room(self, left: int) -> bool:
        wanted = min(self.slots, left + sum(map(len, self._given.values())))
        while len(self._starting) + len(self._given) < wanted:
            actor = self._actor.remote(sys.path, self._state, self.counts.actor)
            self._starting.add(actor)
            self._calls[actor.ready.remote()] = actor
        # Items go only to ready actors: a full cluster may never place them all. And the last
        # items go to the first free actor, and never wait behind a long item.
        depth = self.in_flight if left > len(self._given) else 1
        return any(len(given) < depth for given in self._given.values())

    def give(self, index: int, item: Any) -> None:
        actor = min(self._given, key=lambda one: len(self._given[one]))
        packed = cloudpickle.dumps((OwnModules(), item), protocol=5)
        call = actor.call.remote(packed)
        self._calls[call] = actor
        self._given[actor][call] = index

    def next(self) -> Completed | WorkerLost | None:
        self.counts.poll()
        if not self._events and not self._ready:
            self._ready.extend(_finished(self._ray, list(self._calls)))
            if not self._ready and not self._given:
                self._placement.check()
        if not self._events and self._ready:
            self._handle(self._ready.popleft())
        return self._events.popleft() if self._events else None

    def _handle(self, call: Any) -> None:
        actor = self._calls.pop(call, None)
        if actor is None:  # it was removed as dead
            return
        outcome = _fetch(self._ray, call)
        if not isinstance(outcome, AttemptResult):
            self._remove_dead(actor, call, outcome)
        elif actor in self._starting:
            self._starting.remove(actor)
            self._given[actor] = {}
            self._failed_starts = 0
            self._events.append(Completed(None, outcome))
        else:
            self._events.append(Completed(self._given[actor].pop(call), outcome))

    def _remove_dead(self, actor: Any, call: Any, error: Exception) -> None:
        """Remove a dead actor; its finished items count, and the first unfinished one ran.

        Or that one had just ended: a reply that the process had not sent is lost with it, and which
        of two items killed it is not known. On a busy machine this was so 6 times in 36, with an
        item that kills at once; then its neighbour has the loss, and both run again.
        """
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
        self._calls = {ref: one for ref, one in self._calls.items() if one != actor}
        if actor in self._starting:
            self._starting.remove(actor)
            self._failed_starts += 1
            if self._failed_starts == _FAILED_STARTS:
                raise Failure(
                    f"an actor ended before it was ready, {_FAILED_STARTS} times: {error}"
                )
            self._events.append(_worker_lost(error, at=None))
            return
        unfinished = []
        for one, index in self._given.pop(actor).items():
            ready, _ = self._ray.wait([one], timeout=0) if one != call else ([], None)
            outcome = _fetch(self._ray, one) if ready else error
            if isinstance(outcome, AttemptResult):
                self._events.append(Completed(index, outcome))
            else:
                unfinished.append(index)
        first, *queued = unfinished
        self._events.append(_worker_lost(error, at=first, queued=tuple(queued)))

    def stop(self) -> None:
        for actor in (*self._starting, *self._given):
            self._ray.kill(actor)
        left = [call for given in self._given.values() for call in given]
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=_STOP_SECONDS)


# -- results and errors of Ray ----------------------------------------------------------------


def _finished(ray: Any, calls: list[Any]) -> list[Any]:
    """Wait for the first call that is finished, and return all that are."""
    if not calls:
        time.sleep(_POLL_SECONDS)
        return []
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
    return done or ray.wait(calls, num_returns=1, timeout=_POLL_SECONDS)[0]


def _fetch(ray: Any, call: Any) -> AttemptResult | Exception:
    """Get the outcome of a call, or Ray's error where its worker was lost.

    Raises:
        Failure: The work cannot be run at all.
    """
    errors = ray.exceptions
    try:
        return ray.get(call)
    except (errors.RuntimeEnvSetupError, errors.TaskCancelledError) as error:
        raise Failure(f"Ray could not run the work: {_short(error)}") from error
    except errors.RayTaskError as error:
        # The function's own errors are outcomes; this one was raised in transporting them.
        cause = error.cause if isinstance(error.cause, Exception) else error
        return portable(AttemptResult(error=cause))
    except errors.RayError as error:
        return error


def _worker_lost(error: Exception, at: int | None, queued: tuple[int, ...] = ()) -> WorkerLost:
    kind = type(error).__name__
    machine = kind in _MACHINE or "node has died" in str(error)
    # For other lost workers Ray lists all possible causes, SIGKILL for memory among them.
    memory = True if kind == "OutOfMemoryError" else None
    return WorkerLost(
        f"was lost ({kind}: {_short(error)})", at, queued, blamed=not machine, memory=memory
    )


_MACHINE = {
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "OwnerDiedError",
    "RaySystemError",
    "RpcError",
}
"""Names of the errors that Ray raises where a machine was lost, whatever the item was."""


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 240 else f"{text[:239]}…"


# -- in a worker ------------------------------------------------------------------------------


_state: tuple[str, Any] | None = None
"""The identifier of the current run, and its state."""


def _in_task(
    run: str, path: list[str], state: SharedState, counts: Any, item: bytes
) -> AttemptResult:
    def prepare() -> tuple[Any, Any]:
        global _state
        if _state is None or _state[0] != run:
            _state = None  # the last run's state is freed before this one's is read
            _state = (run, state.open())
        return _state[1]

    extend_path(path)
    send_to(counts)
    return portable(attempt(prepare, pickle.loads(item)[1]))  # noqa: S301  our driver made it


class _StateActor:
    """A Ray actor that keeps the function and the state of a run.

    They are unpickled by the first call, not by the constructor: Ray reports an error of a
    constructor as a dead actor, and the error itself is lost.
    """

    def __init__(self, path: list[str], state: SharedState, counts: Any) -> None:
        extend_path(path)
        send_to(counts)
        self._state: SharedState | None = state

    @functools.cached_property
    def _opened(self) -> tuple[Any, Any]:
        assert self._state is not None
        opened: tuple[Any, Any] = self._state.open()
        self._state = None
        return opened

    def ready(self) -> AttemptResult:
        return portable(attempt(lambda: (lambda *_: None, self._opened), None))

    def call(self, item: bytes) -> AttemptResult:
        return portable(attempt(lambda: self._opened, pickle.loads(item)[1]))  # noqa: S301
