"""Changes of a recipe that are previewed: which keys, and how each is written down."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from penstock.errors import RecipeError
from penstock.recipe import Recipe
from penstock.recipe_file import override, validate

__all__ = ["KEYS", "apply_change", "as_command", "as_settings", "as_yaml"]

KEYS = {
    "budget": ("tokens", "rank", "draw", "shares", "allow_short"),
    "clean": ("where", "rules"),
}
"""The keys of a change, by section."""


def apply_change(recipe: Recipe, change: Mapping[str, Any]) -> Recipe:
    """Return a recipe with a change.

    Args:
        recipe: The recipe.
        change: ``{"budget": {...}, "clean": {...}}``, of :data:`KEYS`. ``rank``, ``draw`` and
            ``shares`` are whole values; of ``clean.rules`` thresholds are merged, null turns one
            off; ``where: null`` removes the condition.

    Raises:
        RecipeError: A key is none of those, or a value is wrong.
    """
    for section, values in change.items():
        if section not in KEYS or not isinstance(values, Mapping):
            raise RecipeError(
                key=str(section)[:60], expected=f"a mapping of one of {', '.join(KEYS)}"
            )
        for name in values:
            if name not in KEYS[section]:
                raise RecipeError(
                    "cannot be previewed",
                    key=f"{section}.{str(name)[:60]}",
                    expected=f"one of {', '.join(KEYS[section])}",
                    fix="change the recipe and run `penstock curate RECIPE`",
                )
    tree = recipe.model_dump(mode="json", exclude={"compare"})
    return validate(override(tree, change), recipe.directory)


def as_yaml(change: Mapping[str, Any]) -> str:
    """Write a change as the lines of YAML to put into the recipe; empty without one."""
    if not change:
        return ""
    text: str = yaml.safe_dump(dict(change), sort_keys=False, allow_unicode=True, width=100)
    return text


def as_settings(change: Mapping[str, Any]) -> list[str]:
    """Write a change as values of ``--set``, a key each, in the order of the change."""
    return [f"{'.'.join(names)}={json.dumps(value)}" for names, value in _leaves(change)]


def as_command(path: str, change: Mapping[str, Any], settings: Sequence[str] = ()) -> str:
    """Write a change as a command for a POSIX shell, after ``settings`` that come first."""
    parts = ["penstock", "curate", path]
    for setting in [*settings, *as_settings(change)]:
        parts += ["--set", setting]
    return shlex.join(parts)


def _leaves(change: Mapping[str, Any]) -> Iterator[tuple[list[str], Any]]:
    for section, values in change.items():
        for name, value in values.items():
            if name != "rules" or not isinstance(value, Mapping):
                yield [section, name], value
                continue
            for one, own in value.items():
                if not isinstance(own, Mapping):
                    yield [section, name, one], own
                    continue
                for threshold, limit in own.items():
                    yield [section, name, one, threshold], limit
