"""The resources that a worker needs, as selectors state them and runners provide them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Resources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources of one worker. Ray places workers by them; a local runner ignores them."""

    cpus: float = 1
    gpus: float = 0
    """GPUs; with a fraction, several workers share one."""

    memory: int | None = None
    """Memory in bytes."""

    slow: bool = False
    """True if a document takes more than about 10 ms: work is divided and committed in parts of
    units (:mod:`penstock.pipeline.scoring.parts`)."""

    by: str = "the stage"
    """The part of the recipe that needs them, for messages: ``select.NAME``."""

    def __post_init__(self) -> None:
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus), ("memory", self.memory or 0)):
            if value < 0:
                raise ValueError(f"needs.{name}: expected zero or more, got {value}")

    def resources(self) -> dict[str, float]:
        """Return the amounts above zero by Ray's names."""
        amounts = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory or 0}
        return {name: amount for name, amount in amounts.items() if amount}
