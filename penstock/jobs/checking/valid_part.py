"""Read what of a recipe with wrong keys can be looked at, so that one check finds all errors.

Keys that are wrong are left out, and what is left is validated again. An error that this may have
caused is not told: of a later round none about a key that is required, nor about a section that
names entries of one from which a key is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import RecipeError
from penstock.recipe import Recipe
from penstock.recipe_file import find_problems, joined_problems, override, read_tree

__all__ = ["ValidPart", "load_valid_part"]

_TOKENS = 1024
"""In place of a budget's tokens that are wrong."""

_MOST = 1000
"""Keys that are left out, at most."""

_NAMES_OF = {
    "budget": ("select", "rewrite"),
    "shards": ("select",),
    "train": ("budget", "shards", "evaluate", "select"),
    "compare": ("budget", "train", "select"),
}
"""Sections whose validity depends on others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidPart:
    """A recipe without its wrong keys, and its errors."""

    recipe: Recipe
    errors: Sequence[RecipeError]
    removed: tuple[str, ...]
    """Dotted keys that were left out."""

    def concerns(self, key: str | None) -> bool:
        """Return whether a finding about a key may be due to a key that was left out."""
        return key is not None and any(_is_below(key, one) for one in self.removed)


def load_valid_part(path: Path, settings: Sequence[str] = ()) -> ValidPart:
    """Read a recipe file, and leave out the keys that are wrong.

    Args:
        path: The YAML file.
        settings: ``key.path=value`` overrides; values are YAML.

    Raises:
        RecipeError: The file cannot be read; or what is left names no input.
    """
    tree: dict[str, Any] = read_tree(path, settings)
    errors: list[RecipeError] = []
    removed: list[str] = []
    while not isinstance(found := find_problems(tree, path.parent, path), Recipe):
        told = [one for one in found if not (removed and _is_an_echo(one, removed))]
        errors += told
        before = len(removed)
        for one in found:
            tree = _without(tree, (one.key or "").split("."), removed)
        tree = _with_budget(tree, removed)
        if len(removed) == before or len(removed) > _MOST:
            raise joined_problems(errors)
    if not any(_is_below(key, "compare") for key in removed):
        plain = found.model_dump(mode="json", exclude={"compare"})
        for arm, changes in found.compare.arms.items():
            under = f"compare.arms.{arm}"
            own = find_problems(override(plain, changes), path.parent, path, under)
            errors += [] if isinstance(own, Recipe) else own
    return ValidPart(recipe=found, errors=errors, removed=tuple(dict.fromkeys(removed)))


def _is_below(key: str, above: str) -> bool:
    return key == above or key.startswith(f"{above}.")


def _is_an_echo(error: RecipeError, removed: Sequence[str]) -> bool:
    """Return whether an error may be there only because of the keys that were left out."""
    section = (error.key or "").partition(".")[0]
    others = _NAMES_OF.get(section, ())
    return error.problem == "missing" or any(key.partition(".")[0] in others for key in removed)


def _without(tree: dict[str, Any], names: Sequence[str], removed: list[str]) -> dict[str, Any]:
    """Return plain data without the value at a key, or without the nearest one that holds it.

    An item of ``corpus`` is never left out: the numbers of those behind it would change.

    Args:
        tree: A recipe as plain data.
        names: The parts of the key.
        removed: Gets the key of what was left out, or nothing if it is the item of a ``corpus``.
    """
    node: Any = tree
    depth = 0
    while depth < len(names) and (below := _at(node, names[depth])) is not None:
        node, depth = below[0], depth + 1
    least = 3 if names[0] == "corpus" else 1
    if depth < least:
        return tree
    removed.append(".".join(names[:depth]))
    return _removed(tree, names[:depth])


def _with_budget(tree: dict[str, Any], removed: list[str]) -> dict[str, Any]:
    """Return plain data with tokens of a budget and a rank by all selectors, where these miss.

    Args:
        tree: A recipe as plain data.
        removed: Gets the keys that were missing.
    """
    budget, select = tree.get("budget", {}), tree.get("select")
    if not isinstance(budget, Mapping):
        return tree
    names = list(select) if isinstance(select, Mapping) else []
    missing = {"tokens": _TOKENS, "rank": dict.fromkeys(names, 1.0) if names else "random"}
    removed += [f"budget.{key}" for key in missing if key not in budget]
    return {**tree, "budget": {**missing, **budget}}


def _at(node: Any, name: str) -> tuple[Any] | None:
    """Return the value of a name in a mapping or list, in a tuple; None if it is not there."""
    if isinstance(node, Mapping):
        return (node[name],) if name in node else None
    if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
        return (node[int(name)],)
    return None


def _removed(node: Any, names: Sequence[str]) -> Any:
    name, *below = names
    if isinstance(node, list):
        place = int(name)
        own = [_removed(node[place], below)] if below else []
        return [*node[:place], *own, *node[place + 1 :]]
    if below:
        return {**node, name: _removed(node[name], below)}
    return {key: value for key, value in node.items() if key != name}
