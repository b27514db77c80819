"""Agreement between rungs: whether two sizes put the arms in one order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.jobs.comparison.arms import ArmsAtSize
from penstock.jobs.comparison.differences import UNCLEAR, difference

__all__ = ["agreement", "agreements", "kendall_tau"]


def agreements(rungs: Sequence[ArmsAtSize]) -> dict[str, list[dict[str, Any]]]:
    """Return, for each evaluation, the agreement of every two rungs that share two arms."""
    found: dict[str, list[dict[str, Any]]] = {}
    for (first, one), (second, other) in itertools.combinations(enumerate(rungs), 2):
        for target in one.judged:
            if own := agreement(one, other, target):
                found.setdefault(target, []).append({"rungs": [first, second], **own})
    return found


def agreement(one: ArmsAtSize, other: ArmsAtSize, target: str) -> dict[str, Any] | None:
    """Compare the order of the arms that two sizes share; None of fewer than two.

    Returns:
        ``arms``, their names; ``pairs`` of them; ``equally_ordered``, the share of the pairs whose
        metric has one order at both sizes; ``kendall_tau`` (tau-b), None where all are equal; and
        ``distinguishable``: ``pairs`` whose differences are beyond their errors at both sizes, and
        the share ``equally_ordered`` of these, None without any.
    """
    names = [point.arm for point in one.at_equal_tokens()]
    names = [name for name in names if name in {point.arm for point in other.at_equal_tokens()}]
    if len(names) < 2:
        return None
    values = [
        {name: size.point(name).mean(target, size.metric) for name in names}
        for size in (one, other)
    ]
    pairs = list(itertools.combinations(names, 2))
    told = [pair for pair in pairs if all(_differ(size, target, *pair) for size in (one, other))]
    return {
        "arms": names,
        "pairs": len(pairs),
        "equally_ordered": _equally_ordered(pairs, *values),
        "kendall_tau": kendall_tau(*([own[name] for name in names] for own in values)),
        "distinguishable": {
            "pairs": len(told),
            "equally_ordered": _equally_ordered(told, *values) if told else None,
        },
    }


def _differ(size: ArmsAtSize, target: str, one: str, other: str) -> bool:
    terms = (size.point(name).terms(target, size.metric) for name in (one, other))
    return difference(*terms).words(True) != UNCLEAR


def _equally_ordered(
    pairs: Sequence[tuple[str, str]], first: Mapping[str, float], second: Mapping[str, float]
) -> float:
    same = [(first[a] - first[b]) * (second[a] - second[b]) > 0 for a, b in pairs]
    return sum(same) / len(same)


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Compute Kendall's tau-b of (n,) values; None where all values of one are equal."""
    signs = [
        (math.copysign(1, a - b) if a != b else 0, math.copysign(1, c - d) if c != d else 0)
        for (a, c), (b, d) in itertools.combinations(zip(first, second, strict=True), 2)
    ]
    scale = math.prod(sum(1 for pair in signs if pair[side]) for side in (0, 1))
    return sum(a * b for a, b in signs) / math.sqrt(scale) if scale else None
