"""Schedules of reweighting: warm-up and temperature, in shares of the budget, tokens or steps.

In tokens a schedule is the same for every batch size; steps are the unit of papers.
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
    def of(cls, value: Any) -> Duration:
        """Read a recipe's share of the budget, ``{tokens: n}`` or ``{steps: n}``."""
        if isinstance(value, Duration):
            return value
        key = None
        if isinstance(value, Mapping):
            if len(value) != 1 or not set(value) <= set(_UNITS):
                raise SelectorError(expected=f"one of {', '.join(_UNITS)}", got=repr(value))
            ((unit, amount),) = value.items()
            if unit != "share":
                return cls(whole(unit, amount, least=0), unit)
            key, value = "share", amount
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise SelectorError(
                key=key,
                expected="a share of the budget in [0, 1], {tokens: n} or {steps: n}",
                got=repr(value),
            )
        return cls(float(value))

    def passed(self, moment: TrainingProgress) -> float:
        """Compute the part of it that has passed at a step's beginning, in [0, 1]."""
        if self.unit == "steps":
            done, length = float(moment.step), self.amount
        else:
            share = self.unit == "share"
            done = float(moment.tokens)
            length = self.amount * moment.budget if share else self.amount
        return 1.0 if done >= length else done / length

    def identity(self) -> dict[str, float]:
        return {self.unit: self.amount}


@dataclass(frozen=True, slots=True)
class Temperature:
    """One value, or a geometric interpolation between two over the beginning of a run."""

    end: float
    start: float | None = None
    over: Duration = Duration(0.0)

    @classmethod
    def of(cls, value: Any) -> Temperature:
        """Read a recipe's number, or ``{start: 100, end: 0.4, over: 0.1}``."""
        if isinstance(value, Temperature):
            return value
        if not isinstance(value, Mapping):
            return cls(number(None, value))
        options(value, ("start", "end", "over"))
        for needed in ("start", "end", "over"):
            if needed not in value:
                raise SelectorError("missing", key=needed, expected="start, end and over")
        try:
            over = Duration.of(value["over"])
        except SelectorError as error:
            raise error.under("over") from None
        return cls(number("end", value["end"]), number("start", value["start"]), over)

    def at(self, moment: TrainingProgress) -> float:
        if self.start is None:
            return self.end
        passed = self.over.passed(moment)
        return float(self.start ** (1 - passed) * self.end**passed)

    def identity(self) -> Any:
        if self.start is None:
            return self.end
        return {"start": self.start, "end": self.end, "over": self.over.identity()}
