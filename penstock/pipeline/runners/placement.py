"""Where on a Ray cluster there is room for workers, counted anew every second.

A run so grows and shrinks with its cluster. What no node can hold is waited for, as it may be on
its way, but not for ever.
"""

from __future__ import annotations

import os
import time
from typing import Any

from penstock.errors import Failure
from penstock.resources import Resources

__all__ = ["Placement"]

_PULSE = 1.0
"""Seconds for which a count of the cluster holds."""

_PLACING_HERE = 20.0
"""Seconds for which a Ray of our own, which cannot grow, may lack what is needed."""

_PLACING = 900.0
"""The same where machines may be on their way: a cloud's GPU node takes minutes to come up."""


class Placement:
    """What there is of what is needed, now."""

    def __init__(self, ray: Any, needs: Resources) -> None:
        self.ray = ray
        self.needs = needs
        self._counted = -_PULSE
        self._slots = 0
        self._without_since: float | None = None

    @property
    def slots(self) -> int:
        """Workers with these needs that the live nodes can hold; one where they can hold none."""
        now = time.monotonic()
        if now - self._counted >= _PULSE:
            self._counted = now
            self._slots = sum(self._fit(node) for node in self._nodes())
        return max(1, self._slots)

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def _fit(self, node: dict[str, float]) -> int:
        asked = self.needs.resources() or {"CPU": 1}
        return min(int(node.get(name, 0) / amount) for name, amount in asked.items())

    def options(self) -> dict[str, Any]:
        """Of a task or an actor."""
        needs = self.needs
        return {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory}

    def check(self) -> None:
        """Asked while nothing has been placed.

        Raises:
            Failure: The cluster has had no room for one worker for long enough.
        """
        now = time.monotonic()
        _ = self.slots
        if self._slots:
            self._without_since = None
            return
        since = self._without_since = self._without_since or now
        if now - since > (_PLACING if os.environ.get("RAY_ADDRESS") else _PLACING_HERE):
            raise Failure(self._missing(now - since))

    def _missing(self, seconds: float) -> str:
        nodes = self._nodes()
        asked = self.needs.resources()
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in asked}
        lacking = {name for name in asked if most[name] < asked[name]} or set(asked)
        wants = ", ".join(_amount(name, asked[name]) for name in sorted(lacking))
        has = ", ".join(_amount(name, most[name]) for name in sorted(lacking))
        return (
            f"{self.needs.by} asks for {wants}, and for {seconds:.0f} s no node of the cluster has "
            f"had more than {has}; add such a node, or ask for less"
        )


def _amount(name: str, amount: float) -> str:
    if name == "memory":
        return f"{amount / 2**30:.1f} GiB of memory"
    return f"{amount:g} {name}{'' if amount == 1 else 's'}"
