"""Counts of documents on Ray: workers send them to an actor, from which the driver takes them.

The actor holds two integers. It has no CPU, so that it takes no worker's place, and runs on the
driver's node, so that an idle machine is not kept for it. Without it nothing is lost but the
counts of a progress line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from penstock.activity import DocumentCounts, add_counts, send_counts
from penstock.cluster import extend_path

__all__ = ["CountsActor", "RayCounts", "counts_of", "send_to"]

_POLL_SECONDS = 1.0


class CountsActor:
    """Sums the counts of all workers between two calls of :meth:`take`."""

    def __init__(self, path: Sequence[str]) -> None:
        extend_path(path)
        self._counts = DocumentCounts()

    def add(self, documents: int, size: int) -> None:
        """Add counts of a worker."""
        self._counts.add(documents, size)

    def take(self) -> tuple[int, int]:
        """Return the documents and bytes since the last call."""
        counts, self._counts = self._counts, DocumentCounts()
        return counts.documents, counts.bytes

    def drop(self) -> None:
        """Forget the counts since the last call of :meth:`take`."""
        self._counts = DocumentCounts()


class RayCounts:
    """The driver's side: polls the actor once a second, and never waits for it.

    Attributes:
        actor: The handle that workers get; None where the actor was lost.
    """

    def __init__(self, ray: Any, path: Sequence[str]) -> None:
        self._ray = ray
        place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": place}
        self.actor: Any = ray.remote(**options)(CountsActor).remote(list(path))
        self._asked: Any = None
        self._polled = 0.0

    def begin(self) -> None:
        """Drop what an earlier run has counted since it last asked."""
        self._asked = None
        if self.actor is not None:
            self.actor.drop.options(num_returns=0).remote()

    def poll(self) -> None:
        """Add what was counted to the step under way, if a second has passed since the last."""
        now = time.monotonic()
        if self.actor is None or now - self._polled < _POLL_SECONDS:
            return
        self._polled = now
        try:
            if self._asked is None:
                self._asked = self.actor.take.remote()
            elif self._ray.wait([self._asked], timeout=0)[0]:
                add_counts(*self._ray.get(self._asked))
                self._asked = self.actor.take.remote()
        except self._ray.exceptions.RayError:
            self.actor = None


_known: tuple[tuple[str, str], RayCounts] | None = None
"""The counts of this process's driver, by its job and node."""


def counts_of(ray: Any, path: Sequence[str]) -> RayCounts:
    """Return the counts of this driver, which all its runners share, for a run that begins."""
    global _known
    context = ray.get_runtime_context()
    key = context.get_job_id(), context.get_node_id()
    if _known is None or _known[0] != key or _known[1].actor is None:
        _known = key, RayCounts(ray, path)
    _known[1].begin()
    return _known[1]


def send_to(actor: Any) -> None:
    """In a worker: send counts to the actor of the driver whose item runs; None for no counts."""
    if actor is None:
        send_counts(None)
        return
    send_counts(actor.add.options(num_returns=0).remote)
