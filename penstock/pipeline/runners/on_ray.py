"""Work on Ray: tasks, and actors where a model must stay loaded.

Ray only places and carries. It is told to retry nothing: whether an item is done again is for the
one policy of :mod:`penstock.pipeline.runners.schedule`.
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
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]

from penstock.cluster import connect
from penstock.errors import Failure
from penstock.pipeline.runners.attempt import Answer, attempt, portable
from penstock.pipeline.runners.placement import Placement
from penstock.pipeline.runners.schedule import drain
from penstock.pipeline.runners.shared_state import SharedState
from penstock.pipeline.runners.worker_pool import Completed, Usage, WorkerLost
from penstock.resources import Resources

__all__ = ["RayRunner"]

Result = TypeVar("Result")

_PULSE = 1.0
"""Seconds between looks where nothing happens."""

_STOPPING = 10.0
"""Seconds for work to end when it is interrupted, before its process is killed."""

_FAILED_STARTS = 3
"""Actors in a row that may end before they are up."""


class RayRunner:
    """Attaches to ``RAY_ADDRESS``, else starts Ray on this machine.

    Args:
        workers: CPUs of a Ray started here; all by default.
        in_flight: Items handed over for each slot.
    """

    name = "ray"

    def __init__(self, workers: int | None = None, in_flight: int = 2) -> None:
        self._ray = connect(workers)
        self._in_flight = in_flight
        self.usage = Usage()

    @property
    def slots(self) -> int:
        """CPUs of the cluster as it is now; one while an autoscaled cluster has none yet."""
        return Placement(self._ray, Resources()).slots

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
        parcel = self._ray.put(SharedState.of((function, shared, setup)))
        placement = Placement(self._ray, needs or Resources())
        crew = (_Actors if setup else _Tasks)(placement, self._in_flight, parcel)
        try:
            yield from drain(crew, items, self.usage, ordered)
        except self._ray.exceptions.RayError as error:
            raise Failure(f"Ray stopped answering: {_short(error)}; run again to go on") from error

    def close(self) -> None:
        """Nothing is held between runs; Ray itself stays for what this process does next."""


class _Tasks:
    """A Ray task for each item."""

    def __init__(self, placement: Placement, in_flight: int, parcel: Any) -> None:
        self._placement = placement
        self._ray = placement.ray
        self.in_flight = in_flight
        self._task = self._ray.remote(max_retries=0, **placement.options())(_in_task)
        self._parcel = parcel
        self._run = uuid.uuid4().hex
        self._running: dict[Any, int] = {}
        self._ready: collections.deque[Any] = collections.deque()
        self._placed = False

    @property
    def slots(self) -> int:
        return self._placement.slots

    def room(self, left: int) -> bool:
        return len(self._running) < self.slots * self.in_flight

    def give(self, index: int, item: Any) -> None:
        packed = cloudpickle.dumps(item, protocol=5)
        self._running[self._task.remote(self._run, sys.path, self._parcel, packed)] = index

    def next(self) -> Completed | WorkerLost | None:
        if not self._ready:
            self._ready.extend(_finished(self._ray, list(self._running)))
        if not self._ready:
            if not self._placed:
                self._placement.check()
            return None
        self._placed = True
        done = self._ready.popleft()
        index = self._running.pop(done)
        answer = _fetched(self._ray, done)
        if isinstance(answer, Answer):
            return Completed(index, answer)
        return _lost(answer, at=index)

    def stop(self) -> None:
        # Nothing of a run that was given up may still write when the next one begins.
        left = list(self._running)
        for force in (False, True):
            for unwanted in left:
                self._ray.cancel(unwanted, force=force)
            if left:
                _, left = self._ray.wait(left, num_returns=len(left), timeout=_STOPPING)


class _Actors:
    """Actors that keep the state: as many as there is room for, replaced when they die."""

    def __init__(self, placement: Placement, in_flight: int, parcel: Any) -> None:
        self._placement = placement
        self._ray = placement.ray
        self.in_flight = in_flight
        options = {"max_restarts": 0, "max_task_retries": 0, **placement.options()}
        self._keeper = self._ray.remote(**options)(_StateActor)
        self._parcel = parcel
        self._calls: dict[Any, Any] = {}
        """A reference to the actor that will answer it."""

        self._given: dict[Any, dict[Any, int]] = {}
        """Of each actor that is up: references to items, in the order of being given."""

        self._coming: set[Any] = set()
        self._ready: collections.deque[Any] = collections.deque()
        self._events: collections.deque[Completed | WorkerLost] = collections.deque()
        """Of an actor that died, what there is to say beside the first."""

        self._failed_starts = 0

    @property
    def slots(self) -> int:
        return self._placement.slots

    def room(self, left: int) -> bool:
        wanted = min(self.slots, left + sum(map(len, self._given.values())))
        while len(self._coming) + len(self._given) < wanted:
            actor = self._keeper.remote(sys.path, self._parcel)
            self._coming.add(actor)
            self._calls[actor.ready.remote()] = actor
        # Work goes only to actors that are up: a full cluster may never place them all. And the
        # last items go to whoever is free first, and never wait behind a long one.
        depth = self.in_flight if left > len(self._given) else 1
        return any(len(given) < depth for given in self._given.values())

    def give(self, index: int, item: Any) -> None:
        actor = min(self._given, key=lambda one: len(self._given[one]))
        call = actor.call.remote(cloudpickle.dumps(item, protocol=5))
        self._calls[call] = actor
        self._given[actor][call] = index

    def next(self) -> Completed | WorkerLost | None:
        if not self._events and not self._ready:
            self._ready.extend(_finished(self._ray, list(self._calls)))
            if not self._ready and not self._given:
                self._placement.check()
        if not self._events and self._ready:
            self._settle(self._ready.popleft())
        return self._events.popleft() if self._events else None

    def _settle(self, call: Any) -> None:
        actor = self._calls.pop(call, None)
        if actor is None:  # its actor was found dead
            return
        answer = _fetched(self._ray, call)
        if not isinstance(answer, Answer):
            self._remove_dead(actor, call, answer)
        elif actor in self._coming:
            self._coming.remove(actor)
            self._given[actor] = {}
            self._failed_starts = 0
            self._events.append(Completed(None, answer))
        else:
            self._events.append(Completed(self._given[actor].pop(call), answer))

    def _remove_dead(self, actor: Any, call: Any, error: Exception) -> None:
        """An actor is dead: what it had finished counts, and the first thing it had not is what
        it was at."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
        self._calls = {ref: one for ref, one in self._calls.items() if one != actor}
        if actor in self._coming:
            self._coming.remove(actor)
            self._failed_starts += 1
            if self._failed_starts == _FAILED_STARTS:
                raise Failure(f"an actor ended before it was up, {_FAILED_STARTS} times: {error}")
            self._events.append(_lost(error, at=None))
            return
        unanswered = []
        for one, index in self._given.pop(actor).items():
            ready, _ = self._ray.wait([one], timeout=0) if one != call else ([], None)
            answer = _fetched(self._ray, one) if ready else error
            if isinstance(answer, Answer):
                self._events.append(Completed(index, answer))
            else:
                unanswered.append(index)
        first, *queued = unanswered
        self._events.append(_lost(error, at=first, queued=tuple(queued)))

    def stop(self) -> None:
        for actor in (*self._coming, *self._given):
            self._ray.kill(actor)
        left = [call for given in self._given.values() for call in given]
        if left:
            self._ray.wait(left, num_returns=len(left), timeout=_STOPPING)


# -- what Ray says ----------------------------------------------------------------------------


def _finished(ray: Any, calls: list[Any]) -> list[Any]:
    """Those that have an answer; waits for the first."""
    if not calls:
        time.sleep(_PULSE)
        return []
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
    return done or ray.wait(calls, num_returns=1, timeout=_PULSE)[0]


def _fetched(ray: Any, call: Any) -> Answer | Exception:
    """The answer, or Ray's error where its worker was lost.

    Raises:
        Failure: The work cannot be run at all.
    """
    errors = ray.exceptions
    try:
        return ray.get(call)
    except (errors.RuntimeEnvSetupError, errors.TaskCancelledError) as error:
        raise Failure(f"Ray could not run the work: {_short(error)}") from error
    except errors.RayTaskError as error:
        # The function's own errors are answers; this is what Ray met in carrying them.
        cause = error.cause if isinstance(error.cause, Exception) else error
        return portable(Answer(error=cause))
    except errors.RayError as error:
        return error


def _lost(error: Exception, at: int | None, queued: tuple[int, ...] = ()) -> WorkerLost:
    kind = type(error).__name__
    machine = kind in _MACHINE or "node has died" in str(error)
    # Of other deaths Ray lists all that they may be, SIGKILL for memory among them.
    memory = True if kind == "OutOfMemoryError" else None
    reason = f"was lost ({kind}: {_short(error)})"
    return WorkerLost(reason, at, queued, blamed=not machine, memory=memory)


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
"""What Ray raises where a machine went, whatever the item was."""


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 240 else f"{text[:239]}…"


# -- in a worker ------------------------------------------------------------------------------


_state: tuple[str, Any] | None = None
"""The state of the run at hand, after what tells that run from others."""


def _in_task(run: str, path: list[str], parcel: SharedState, item: bytes) -> Answer:
    def prepare() -> tuple[Any, Any]:
        global _state
        if _state is None or _state[0] != run:
            _state = None  # what is held of the last run goes before the next comes
            function, shared, _ = parcel.open()
            _state = (run, (function, shared))
        return _state[1]

    _find_modules(path)
    return portable(attempt(prepare, pickle.loads(item)))  # noqa: S301  our driver made it


class _StateActor:
    """A Ray actor that keeps the state of a run.

    The state is made by the first call, not by the constructor: Ray reports what a constructor
    raises as a dead actor, and not as the error that it was.
    """

    def __init__(self, path: list[str], parcel: SharedState) -> None:
        _find_modules(path)
        self._parcel: SharedState | None = parcel

    @functools.cached_property
    def _made(self) -> tuple[Any, Any]:
        assert self._parcel is not None
        function, shared, setup = self._parcel.open()
        state = setup(shared)
        self._parcel = None
        return function, state

    def ready(self) -> Answer:
        return portable(attempt(lambda: (lambda *_: None, self._made), None))

    def call(self, item: bytes) -> Answer:
        return portable(attempt(lambda: self._made, pickle.loads(item)))  # noqa: S301


def _find_modules(path: list[str]) -> None:
    """Let modules be found where the driver finds them."""
    sys.path.extend(place for place in path if place not in sys.path)
