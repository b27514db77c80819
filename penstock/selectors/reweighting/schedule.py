"""When reweighting begins, and how its temperature falls: by share of the budget, tokens or steps.

By tokens a schedule is the same for every batch size; steps are there because papers count them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penstock.errors import SelectorError
from penstock.selectors.parameters import number, options, whole
from penstock.selectors.reweighting.base import TrainingProgress

__all__ = ["Duration", "Temperature"]

_UNITS = ("share", "tokens", "steps")


@dataclass(frozen=True, slots=True)
class Duration:
    """The beginning of a run."""

    amount: float
    unit: str = "share"
    """``share`` of the budget, ``tokens`` or ``steps``."""

    @classmethod
    def of(cls, key: str, value: Any) -> Duration:
        """A recipe's share of the budget, ``{tokens: n}`` or ``{steps: n}``."""
        if isinstance(value, Mapping):
            options(key, value, _UNITS)
            if len(value) != 1:
                raise SelectorError(f"{key}: expected one of {', '.join(_UNITS)}, got {value!r}")
            ((unit, amount),) = value.items()
            if unit != "share":
                return cls(whole(f"{key}.{unit}", amount, least=0), unit)
            key, value = f"{key}.share", amount
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise SelectorError(
                f"{key}: expected a share of the budget in [0, 1], {{tokens: n}} or {{steps: n}}, "
                f"got {value!r}"
            )
        return cls(float(value))

    def passed(self, moment: TrainingProgress) -> float:
        """The part of it that lies behind a step's beginning, in [0, 1]."""
        if self.unit == "steps":
            done, length = float(moment.step), self.amount
        else:
            share = self.unit == "share"
            done = float(moment.tokens)
            length = self.amount * moment.budget if share else self.amount
        return 1.0 if done >= length else done / length

    def identity(self) -> dict[str, float]:
        """As plain data."""
        return {self.unit: self.amount}


@dataclass(frozen=True, slots=True)
class Temperature:
    """One value, or a geometric way from one to another over the beginning of a run."""

    end: float
    start: float | None = None
    over: Duration = Duration(0.0)

    @classmethod
    def of(cls, key: str, value: Any) -> Temperature:
        """A recipe's number, or ``{start: 100, end: 0.4, over: 0.1}``."""
        if not isinstance(value, Mapping):
            return cls(number(key, value))
        options(key, value, ("start", "end", "over"))
        for needed in ("start", "end", "over"):
            if needed not in value:
                raise SelectorError(f"{key}.{needed}: missing; expected start, end and over")
        return cls(
            number(f"{key}.end", value["end"]),
            number(f"{key}.start", value["start"]),
            Duration.of(f"{key}.over", value["over"]),
        )

    def at(self, moment: TrainingProgress) -> float:
        """The temperature of a step."""
        if self.start is None:
            return self.end
        passed = self.over.passed(moment)
        return float(self.start ** (1 - passed) * self.end**passed)

    def identity(self) -> Any:
        """As plain data."""
        if self.start is None:
            return self.end
        return {"start": self.start, "end": self.end, "over": self.over.identity()}
