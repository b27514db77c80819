"""Runners: one protocol for parallel work, by local worker processes or by Ray tasks and actors.

A stage gives a runner a module-level function and a list of small items. The runner calls
``function(item, state)`` for each item, in parallel, and yields results as they complete. The
output of a function must depend on its item and the state alone: then every runner leaves the same
bytes, and an item can be run again, even twice at once. Results are small records, never tables.
Failures are handled in :mod:`penstock.pipeline.runners.schedule`.

Why not Ray Data: over 16 files on two CPUs it took 2.6 s warm where a ``ray.wait`` loop over tasks
took 0.2-0.65 s, and it neither keeps row order through a write nor resumes a whole pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from penstock.pipeline.runners.local import LocalRunner
from penstock.pipeline.runners.on_ray import RayRunner
from penstock.pipeline.runners.schedule import Usage
from penstock.resources import Resources

__all__ = ["LocalRunner", "RayRunner", "Resources", "Runner", "Usage", "in_order", "open_runner"]

Result = TypeVar("Result")


class Runner(Protocol):
    """Runs a function for many items in parallel."""

    name: str

    usage: Usage
    """Counters of the work so far."""

    @property
    def slots(self) -> int:
        """Items that can run at the same time."""

    def run(
        self,
        function: Callable[[Any, Any], Result],
        items: Sequence[Any],
        shared: Any = None,
        keep_state: bool = False,
        needs: Resources | None = None,
        ordered: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        """Yield ``(index, function(items[index], state))`` in the order of completion.

        A transient error of the network or of a store is retried. An item whose worker was lost
        is run again, at most three times in all. An item that fails does not stop the others.

        Args:
            function: Module-level; called with an item and the state.
            items: Small and picklable. An item, or the first element of one, may have a ``label``
                that names it in messages.
            shared: The state. It is sent once to each node; its arrays are shared by the workers
                of a node, and read-only in them.
            keep_state: True to keep workers between items, because they have loaded a model: on
                Ray an actor, not a task.
            needs: Resources of each worker; one CPU by default.
            ordered: The caller needs all results, in the items' order: few items are started
                ahead of the first unfinished one, and the first failure ends the run. Results are
                still yielded as they complete; see :func:`in_order`.

        Raises:
            Exception: After the last result, the error of the first item that failed; at once,
                an error in unpickling the state.
            WorkerError: An item crashed three workers.
        """

    def close(self) -> None:
        """Stop the workers."""


def in_order(runner: Runner) -> Callable[..., Iterator[Any]]:
    """Make a selector's ``ParallelMap`` of a runner: results in the items' order, few held."""

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
    """Open the runner that a command names.

    Args:
        kind: ``local``, ``ray``, or ``auto``: Ray where ``RAY_ADDRESS`` is set, else local.
        workers: Processes of a local runner, or CPUs of a Ray started here; all CPUs by default.
    """
    if kind == "auto":
        kind = "ray" if os.environ.get("RAY_ADDRESS") else "local"
    return RayRunner(workers) if kind == "ray" else LocalRunner(workers)
