"""What of a recipe the page can change: the values now, and their limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penstock.jobs.browse.preview import BrowsedRecipe
from penstock.pipeline.cutting.ordering import RANDOM
from penstock.rules import Expression
from penstock.rules.expressions.nodes import Call, ColumnName, Constant, MetaName, Node

__all__ = ["controls_of", "numbers_in"]

_COMPARED = ("<", "<=", ">", ">=", "==", "!=")

_NUMBER = re.compile(r"[0-9][0-9_]*(\.[0-9_]*)?([eE][+-]?[0-9]+)?|\.[0-9]+")


def controls_of(browsed: BrowsedRecipe) -> dict[str, Any]:
    """Return the values that the page changes, as JSON has them.

    ``tokens`` and ``most_tokens``, ``rank`` and ``columns`` that may be ranked by, ``draw``,
    ``shares``, ``sources`` with their documents and bytes, ``where`` with its ``numbers``, and
    ``rules`` with their thresholds.
    """
    recipe, columns = browsed.recipe, browsed.columns
    budget = recipe.budget
    dumped = budget.model_dump(mode="json")
    pool = browsed.curated.pool
    estimate = pool.bytes / browsed.curated.tokenizer.facts["bytes_per_token"]
    where = recipe.clean.where
    return {
        "tokens": browsed.base.preview.requested,
        "share": None if budget.count is not None else dumped["tokens"],
        "most_tokens": int(estimate),
        "sequence": recipe.shards.sequence_length,
        "rank": budget.ranks,
        "columns": [*(name for name in columns.scores if name != RANDOM), RANDOM],
        "draw": dumped["draw"],
        "shares": dumped["shares"],
        "sources": {name: dict(own) for name, own in pool.by_source.items()},
        "where": where,
        "numbers": list(numbers_in(where)) if where else [],
        "rules": [
            {
                "set": one.name,
                "rule": rule.name,
                "limit": rule.limit,
                "unit": rule.unit,
                "threshold": one.threshold_of(rule),
                "whole": isinstance(one.threshold_of(rule), int),
            }
            for one in browsed.clean.settings.rules
            for rule in one.rules
            if one.threshold_of(rule) is not None
        ],
        "rewritten": bool(recipe.rewrite),
    }


def numbers_in(where: str) -> Iterator[dict[str, Any]]:
    """Yield the numbers of a condition that a column is compared with.

    Each has the ``column`` with its ``operator``, the ``value``, and its ``start`` and ``end`` in
    the text, in characters from 0.
    """
    for call in _calls(Expression.of(where).root):
        if call.function not in _COMPARED or len(call.arguments) != 2:
            continue
        left, right = call.arguments
        if isinstance(left, Constant):
            left, right = right, left
        if not isinstance(right, Constant) or not isinstance(right.value, int | float):
            continue
        found = _NUMBER.match(where, right.at - 1)
        if found is None or isinstance(right.value, bool):
            continue
        if isinstance(left, ColumnName | MetaName):
            name = left.name if isinstance(left, ColumnName) else ".".join(("meta", *left.path))
            yield {
                "column": name,
                "operator": call.function,
                "value": right.value,
                "start": found.start(),
                "end": found.end(),
            }


def _calls(node: Node) -> Iterator[Call]:
    if isinstance(node, Call):
        yield node
        for argument in node.arguments:
            yield from _calls(argument)
