"""The document of each component that stays, and whether excluded documents hold one together.

Components hang on text alone. Which document stays is chosen among those that rules, language and
overlap keep, so that a copy never loses to one that is itself excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from penstock.pipeline.cleaning.components import link_equal, unite

__all__ = ["STAYS", "Bridged", "Members", "choose_survivors", "count_bridged"]

STAYS = -1
"""In place of the document that stays: this one stays, or its component has none that could."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Members:
    """Documents of components: n rows of one or many units."""

    components: np.ndarray
    """(n,) int64: the first document of each document's component, or less than 0 for none."""
    kept: np.ndarray
    """(n,) bool: no verdict excludes it."""
    best: np.ndarray
    """(n,) float64: of a component the highest stays, NaN last: a score, a length, or all equal."""
    ties: np.ndarray
    """(n, 2) uint64: the lowest of equally good ones stays: hashes of text, id and source."""
    normal: np.ndarray
    """(n, 2) uint64: the hash of the normalised text."""
    keys: np.ndarray
    """(n, k) uint64: documents are alike if they agree in a column, but for 0."""

    @classmethod
    def joined(cls, parts: Sequence[Members]) -> Members:
        """Put the rows of parts, one at least, after one another."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        return cls(**columns)


@dataclass(frozen=True, slots=True)
class Bridged:
    """Components whose kept documents are alike only through excluded ones."""

    components: int
    documents: int
    """Documents that would stay if excluded documents linked nothing."""


def choose_survivors(members: Members, documents: np.ndarray) -> np.ndarray:
    """Choose the document of each component that stays.

    Args:
        members: n documents, with all of each component.
        documents: (n,) int64: their numbers, which decide between equal ties.

    Returns:
        (n,) int64: the document that stays in place of each, or :data:`STAYS`; for excluded
        documents, too.
    """
    components, kept = members.components, members.kept & (members.components >= 0)
    best = np.where(np.isnan(members.best), -np.inf, members.best)
    high, low = members.ties[:, 0], members.ties[:, 1]
    order = np.lexsort((documents, low, high, -best, ~kept, components))
    own = components[order]
    begins = np.ones(len(own), bool)
    begins[1:] = own[1:] != own[:-1]
    firsts = order[np.flatnonzero(begins)][np.cumsum(begins) - 1] if len(order) else order
    found = np.full(len(own), STAYS, np.int64)
    repeats = kept[firsts] & (firsts != order)
    found[order[repeats]] = documents[firsts[repeats]]
    return found


def count_bridged(members: Members) -> Bridged:
    """Count components whose kept documents would fall apart without the excluded ones.

    Args:
        members: As for :func:`choose_survivors`.
    """
    inside = members.components >= 0
    numbers, own = np.unique(members.components[inside], return_inverse=True)
    kept = members.kept[inside]
    mixed = np.bincount(own[~kept], minlength=len(numbers)) > 0
    mixed &= np.bincount(own[kept], minlength=len(numbers)) > 1
    rows = np.flatnonzero(kept & mixed[own])
    keys = members.keys[inside][rows]
    pairs = np.empty(keys.shape, [("key", "<u8"), ("check", "<u8"), ("document", "<i8")])
    pairs["key"] = keys
    pairs["check"] = own[rows, np.newaxis]  # components are apart, whatever the keys
    pairs["document"] = np.arange(len(rows))[:, np.newaxis]
    _, edges = link_equal(pairs[keys != 0])
    # Of each component's kept documents, those that no edge links to an earlier one.
    apart = np.ones(len(rows), bool)
    apart[unite(edges)["document"]] = False
    parts = np.bincount(own[rows][apart], minlength=len(numbers))
    return Bridged(int(np.count_nonzero(parts > 1)), int(np.maximum(parts - 1, 0).sum()))
