"""The comparison section of a recipe: arms, seeds, metric, and the sizes that are compared."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from penstock.errors import RecipeError, did_you_mean
from penstock.recipe_amounts import TokenCount
from penstock.recipe_training import Model, ModelShape, require

__all__ = ["Compare", "Rung"]

MOST_MULTIPLES = 16.0
"""The largest multiple of the budget: one of 10 needs the baseline to have had 16."""


class Rung(Model):
    """A size at which arms are compared beside the recipe's own."""

    model: ModelShape
    tokens: TokenCount
    """The budget, in place of ``budget.tokens``; budgets of arms and ``train.tokens`` are changed
    by the same factor."""
    lr: float | None = Field(default=None, gt=0)
    """In place of ``train.lr``; those of arms are changed by the same factor."""
    arms: tuple[str, ...] | None = None
    """The arms beside ``selected`` and the baseline; by default all."""
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    """By default those of the comparison."""


class Compare(Model):
    """A comparison: its arms, seeds and budgets."""

    arms: dict[str, dict[str, Any]] = {"random": {"budget": {"rank": "random"}}}
    """Named overrides of this recipe; the recipe itself is the arm ``selected``."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Each of initial weights, data order and draw: arms are compared seed by seed."""
    metric: Literal[
        "bits_per_byte", "text_bits_per_byte", "choice_probability", "margin", "accuracy"
    ] = "bits_per_byte"
    """The metric of verdicts, token multipliers and the agreement of rungs."""
    baseline: str = "random"
    """The arm that others are compared with, and whose tokens the multiplier counts."""
    baseline_multiples: tuple[float, ...] = (1, 2, 4)
    """Budgets at which the baseline is trained, in multiples of ``budget.tokens`` up to 16. One
    that the pool cannot fill without repeating text is left out, and named in the results."""
    rungs: tuple[Rung, ...] = ()
    """More sizes; results have the agreement of the arms' order between every two."""
    parallel: PositiveInt | None = None
    """Runs trained at a time; by default as many as there are CPUs for their workers."""

    @field_validator("seeds")
    @classmethod
    def _some_seed(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        once = len(set(seeds)) == len(seeds) > 0
        require(once, expected="at least one seed, each once", got=list(seeds))
        return seeds

    @field_validator("baseline_multiples")
    @classmethod
    def _multiples_begin_at_one(cls, multiples: tuple[float, ...]) -> tuple[float, ...]:
        rising = all(a < b for a, b in itertools.pairwise(multiples)) and multiples[:1] == (1,)
        require(
            rising and multiples[-1] <= MOST_MULTIPLES,
            expected=f"rising numbers that begin with 1, of at most {MOST_MULTIPLES:g}",
            got=list(multiples),
        )
        return multiples

    @model_validator(mode="after")
    def _baseline_is_an_arm(self) -> Compare:
        require(
            self.baseline in self.arms,
            expected=f"a baseline of {sorted(self.arms)}",
            got=repr(self.baseline),
        )
        require(
            "selected" not in self.arms,
            "the arm 'selected' is the recipe itself",
            fix="give yours another name",
        )
        return self

    @model_validator(mode="after")
    def _rungs_are_of_these_arms(self) -> Compare:
        for number, rung in enumerate(self.rungs):
            for name in rung.arms or ():
                if name not in self.arms:
                    raise RecipeError(
                        f"no arm {name!r}",
                        key=f"rungs.{number}.arms",
                        fix=did_you_mean(name, self.arms).removeprefix("; "),
                    )
        return self
