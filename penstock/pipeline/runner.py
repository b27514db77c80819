"""Who does the work: one protocol, worker processes on this machine, tasks and actors on Ray.

A stage hands a runner a module-level function and a list of small items; the runner calls
``function(item, state)`` for each, side by side, and yields results as they complete. What a
function writes and returns may depend on its item and the state alone, so that every runner
leaves the same bytes, and so that an item can be done again, even twice at once. Results are small
records, never tables. What is done about failures is in :mod:`penstock.pipeline.runners.schedule`.

Why not Ray Data: over 16 files on two CPUs it took 2.6 s warm where a ``ray.wait`` loop over tasks
took 0.2-0.65 s, and it neither keeps row order through a write nor resumes a whole pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from penstock.pipeline.runners.local import LocalRunner
from penstock.pipeline.runners.on_ray import RayRunner
from penstock.pipeline.runners.worker_pool import Usage
from penstock.resources import Resources

__all__ = ["LocalRunner", "RayRunner", "Resources", "Runner", "Usage", "in_order", "open_runner"]

Result = TypeVar("Result")


class Runner(Protocol):
    """Calls a function for many items, wherever there is room."""

    name: str

    usage: Usage
    """What the work has cost so far."""

    @property
    def slots(self) -> int:
        """Items that can be worked on at once."""
        ...

    def run(
        self,
        function: Callable[[Any, Any], Result],
        items: Sequence[Any],
        shared: Any = None,
        setup: Callable[[Any], Any] | None = None,
        needs: Resources | None = None,
        ordered: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        """Yield ``(index, function(items[index], state))`` in the order of completion.

        Errors of the network and of busy stores are waited for; an item whose worker was lost is
        done again, three times. An item that fails for good does not stop the others.

        Args:
            function: Module-level; called with an item and the state.
            items: Small and picklable. An item, or the first element of one, may have a ``label``
                by which messages call it.
            shared: Travels once to each node; it is the state where there is no ``setup``. Its
                arrays are shared by the workers of a node, and read-only in them.
            setup: ``setup(shared)`` makes the state, once in each worker, for work that keeps a
                model loaded.
            needs: Of each worker; a CPU by default.
            ordered: The caller wants the results in the items' order and has no use for some of
                them: little is done ahead of the first unfinished item, and the first failure ends
                the run. Results still come as they complete; see :func:`in_order`.

        Raises:
            Exception: After the last result, what the first item that failed raised; at once,
                what ``setup`` raised.
            WorkerError: An item was the end of three workers.
        """
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def in_order(runner: Runner) -> Callable[..., Iterator[Any]]:
    """A runner as a selector's ``ParallelMap``: results in the items' order, few of them held."""

    def spread(function: Any, items: Sequence[Any], shared: Any = None) -> Iterator[Any]:
        waiting: dict[int, Any] = {}
        wanted = 0
        for index, result in runner.run(function, items, shared, ordered=True):
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
