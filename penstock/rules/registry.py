"""Names of recipes to sets of rules.

A built-in set is a subclass of :class:`~penstock.rules.rule.RuleSet` in the file of its name: a new
file is found without an entry anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from penstock.errors import RecipeError, did_you_mean
from penstock.rules.rule import RuleSet

__all__ = ["built_in", "rule_sets"]


@cache
def built_in() -> Mapping[str, type[RuleSet]]:
    """Return all sets by name."""
    found = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.ispkg:
            continue
        values = vars(importlib.import_module(f"penstock.rules.{module.name}")).values()
        for value in values:
            if isinstance(value, type) and issubclass(value, RuleSet) and value is not RuleSet:
                found[value.name] = value
    return dict(sorted(found.items()))


def rule_sets(rules: Sequence[str] | Mapping[str, Any]) -> tuple[RuleSet, ...]:
    """Build the sets of ``clean.rules``.

    Args:
        rules: Names, or names and their parameters: ``{gopher: {min_words: 50}, c4: {}}``.

    Raises:
        RecipeError: A name or key is unknown, a value is wrong, or two sets contain the same rules;
            the key begins with the name of the set.
    """
    wanted = dict(rules) if isinstance(rules, Mapping) else dict.fromkeys(rules)
    if not isinstance(rules, Mapping) and len(wanted) < len(rules):
        raise RecipeError(expected="each name once", got=", ".join(rules))
    sets: list[RuleSet] = []
    for name, parameters in wanted.items():
        kind = built_in().get(name)
        if kind is None:
            fix = did_you_mean(str(name), built_in()).lstrip("; ")
            raise RecipeError("unknown set of rules", key=str(name), fix=fix)
        if not isinstance(parameters, (Mapping, type(None))):
            raise RecipeError(key=name, expected="a mapping of parameters", got=repr(parameters))
        for before in sets:
            if issubclass(kind, type(before)) or issubclass(type(before), kind):
                problem = f"has rules of `{before.name}`, which is named too"
                raise RecipeError(problem, key=name, fix="remove one of them")
        sets.append(kind(**(parameters or {})))
    return tuple(sets)
