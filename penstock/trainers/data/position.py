"""A run's position in its data, from which another run can go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["DataPosition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPosition:
    """Sequences read of each group of shards, and all that their order depends on.

    A run that begins has read nothing: only ``order`` is given then.
    """

    order: int
    """Seed of the permutations."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Sequences in each group, by its name: how the shards are grouped."""
    read: Mapping[str, int] = field(default_factory=dict)
    """Sequences read of each group, repetitions and those of earlier runs included."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The shares in which the groups are read now."""
    counted: int = 0
    """Sequences read in these shares."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def parsed(cls, values: Mapping[str, Any]) -> DataPosition:
        """Read plain data of :meth:`to_json`.

        Raises:
            ValueError: It is none.
        """
        try:
            return cls(
                order=int(values["order"]),
                groups={str(name): int(size) for name, size in dict(values["groups"]).items()},
                read={str(name): int(count) for name, count in dict(values["read"]).items()},
                weights={str(name): float(one) for name, one in dict(values["weights"]).items()},
                counted=int(values["counted"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no position in data: {error}") from None
