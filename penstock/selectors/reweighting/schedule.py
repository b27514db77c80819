"""Schedules of reweighting: warm-up and temperature, in shares of the budget, tokens or steps.

In tokens a schedule is the same for every batch size; steps are the unit of papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from penstock.errors import SelectorError
from penstock.selectors.parameters import Natural, Options, Positive, number
from penstock.selectors.reweighting.base import TrainingProgress

__all__ = ["Duration", "Temperature"]


class Duration(Options):
    """The beginning of a run: a share of the budget, ``{tokens: n}`` or ``{steps: n}``."""

    share: Annotated[float, Field(ge=0, le=1)] | None = None
    tokens: Natural | None = None
    steps: Natural | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_unit(cls, value: Any) -> Any:
        if isinstance(value, Duration):
            return value
        if isinstance(value, Mapping):
            if len(value) != 1:
                raise SelectorError(expected="one of share, tokens, steps", got=repr(value))
            return value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise SelectorError(
                expected="a share of the budget in [0, 1], {tokens: n} or {steps: n}",
                got=repr(value),
            )
        return {"share": value}

    def passed(self, moment: TrainingProgress) -> float:
        """Compute the part of it that has passed at a step's beginning, in [0, 1]."""
        if self.steps is not None:
            done, length = moment.step, float(self.steps)
        else:
            done = moment.tokens
            length = float(self.tokens or 0) + (self.share or 0.0) * moment.budget
        return 1.0 if done >= length else done / length

    def identity(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


class Temperature(Options):
    """One value, or a geometric interpolation between two over the beginning of a run.

    It is a number, or ``{start: 100, end: 0.4, over: 0.1}``.
    """

    start: Positive | None = None
    end: Positive
    over: Duration = Duration(share=0.0)

    @model_validator(mode="before")
    @classmethod
    def _all_of_it(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            missing = [key for key in cls.model_fields if key not in value]
            if missing and value.keys() <= cls.model_fields.keys():
                raise SelectorError("missing", key=missing[0], expected="start, end and over")
            return value
        return value if isinstance(value, Temperature) else {"end": number(None, value)}

    def at(self, moment: TrainingProgress) -> float:
        if self.start is None:
            return self.end
        passed = self.over.passed(moment)
        return float(self.start ** (1 - passed) * self.end**passed)

    def identity(self) -> Any:
        if self.start is None:
            return self.end
        return {"start": self.start, "end": self.end, "over": self.over.identity()}
