"""The arms of a comparison: recipes that differ from one recipe in named overrides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from penstock.recipe import Recipe
from penstock.recipe_file import override, validate

__all__ = ["SELECTED", "Arm", "as_compared", "recipes_of_arms"]

SELECTED = "selected"
"""The arm that is the recipe as it stands."""


class Arm(NamedTuple):
    """One run of a comparison."""

    name: str
    multiple: float
    """Tokens of the arm over the recipe's budget."""
    seed: int
    """Seed of the draw, the initial weights and the data order."""


def recipes_of_arms(recipe: Recipe) -> dict[Arm, Recipe]:
    """Return the recipe of every arm, multiple of the budget and seed, in the order of training.

    An arm was validated when the recipe was loaded; here each is validated once at each of its
    budgets, and its seeds only replace numbers.

    Raises:
        RecipeError: An arm is wrong at a multiple of its budget.
    """
    settings = recipe.compare
    points = [
        (SELECTED, 1.0),
        *((name, 1.0) for name in settings.arms),
        *((settings.baseline, float(multiple)) for multiple in settings.baseline_multiples[1:]),
    ]
    tree = recipe.model_dump(mode="json", exclude={"compare"})
    return {
        Arm(name, multiple, seed): own
        for name, multiple in points
        for seed, own in _seeded(_at_multiple(recipe, tree, name, multiple), settings.seeds)
    }


def as_compared(recipe: Recipe) -> Recipe:
    """Return the recipe with the first seed of its comparison: a report is about its cut."""
    ((_, own),) = _seeded(recipe, recipe.compare.seeds[:1])
    return own


def _at_multiple(recipe: Recipe, tree: dict[str, Any], name: str, multiple: float) -> Recipe:
    if name == SELECTED:
        return recipe
    arm = override(tree, recipe.compare.arms[name])
    under = f"compare.arms.{name}"
    own = validate(arm, recipe.directory, under=under)
    if multiple == 1:
        return own
    tokens: dict[str, Any] = {"budget": {"tokens": round(own.budget.tokens * multiple)}}
    if own.train.tokens:
        tokens["train"] = {"tokens": round(own.train.tokens * multiple)}
    return validate(override(arm, tokens), recipe.directory, under=under)


def _seeded(recipe: Recipe, seeds: tuple[int, ...]) -> Iterator[tuple[int, Recipe]]:
    for seed in seeds:
        own = {
            "budget": recipe.budget.model_copy(update={"seed": seed}),
            "train": recipe.train.model_copy(update={"seed": seed}),
        }
        yield seed, recipe.model_copy(update=own)
