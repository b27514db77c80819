"""Placement of workers on a Ray cluster: the number that its nodes can hold, counted each second.

So a run grows and shrinks with its cluster. Resources that no node has are waited for, as a node
may be starting, up to a limit.
"""

from __future__ import annotations

import os
import time
from typing import Any

from penstock.errors import Failure
from penstock.resources import Resources

__all__ = ["Placement"]

_COUNT_SECONDS = 1.0
"""Time for which a count of the cluster is reused."""

_PLACING_HERE = 20.0
"""Seconds to wait for resources on a local Ray, which cannot grow."""

_PLACING = 900.0
"""Seconds to wait on a cluster, which may grow: a cloud's GPU node takes minutes to start."""


class Placement:
    """The resources of a Ray cluster against the needs of a worker."""

    def __init__(self, ray: Any, needs: Resources) -> None:
        self.ray = ray
        self.needs = needs
        self._counted = -_COUNT_SECONDS
        self._slots = 0
        self._without_since: float | None = None

    @property
    def slots(self) -> int:
        """Workers with these needs that the live nodes can hold; 1 where they can hold none."""
        now = time.monotonic()
        if now - self._counted >= _COUNT_SECONDS:
            self._counted = now
            self._slots = sum(self._fit(node) for node in self._nodes())
        return max(1, self._slots)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _fit(self, node: dict[str, float]) -> int:
        wanted = self.needs.resources() or {"CPU": 1}
        return min(int(node.get(name, 0) / amount) for name, amount in wanted.items())

    def options(self) -> dict[str, Any]:
        needs = self.needs
        return {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory}

    def check(self) -> None:
        """Check, while no worker was placed, whether to wait longer.

        Raises:
            Failure: The cluster has had no room for one worker for too long.
        """
        now = time.monotonic()
        _ = self.slots
        if self._slots:
            self._without_since = None
            return
        since = self._without_since = self._without_since or now
        if now - since > (_PLACING if os.environ.get("RAY_ADDRESS") else _PLACING_HERE):
            raise self._missing(now - since)

    def _missing(self, seconds: float) -> Failure:
        nodes = self._nodes()
        wanted = self.needs.resources()
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
        lacking = {name for name in wanted if most[name] < wanted[name]} or set(wanted)
        needed = ", ".join(_amount(name, wanted[name]) for name in sorted(lacking))
        there = ", ".join(_amount(name, most[name]) for name in sorted(lacking))
        return Failure(
            key=self.needs.by,
            expected=f"a node of the cluster with {needed}",
            got=f"no more than {there} for {seconds:.0f} s",
            fix="add such a node, or ask for less",
        )


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 2**30:.1f} GiB of memory"
    return f"{amount:g} {name}{'' if amount == 1 else 's'}"
