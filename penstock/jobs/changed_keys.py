"""The keys by which two curated datasets were made differently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.artefact import canonical
from penstock.jobs.sides import Side
from penstock.redaction import mask_addresses

__all__ = ["ChangedKey", "changed_keys"]

_UNSAID = ("work",)
"""Keys on which no document depends."""


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """A key whose values differ."""

    key: str
    """As ``clean.rules.gopher.min_words``; of a list its position, from 0."""
    a: Any
    """The value as JSON; None where the side has no such key."""
    b: Any


def changed_keys(a: Side, b: Side) -> list[ChangedKey]:
    """Return the keys that differ, in their order, the defaults among them.

    They are the recipes' where both sides are recipes, else those of the artefacts. Where files
    changed and their names did not, ``corpus`` has the fingerprints of what was read.
    """
    as_written = a.recipe is not None and b.recipe is not None
    trees = [dict(_flat(side.tree(as_written))) for side in (a, b)]
    found = [
        ChangedKey(key, *(tree.get(key) for tree in trees))
        for key in dict.fromkeys([*trees[0], *trees[1]])
        if key not in _UNSAID and canonical(trees[0].get(key)) != canonical(trees[1].get(key))
    ]
    corpora = [side.pool.corpus.fingerprint[:16] for side in (a, b)]
    if corpora[0] != corpora[1] and not any(one.key.startswith("corpus") for one in found):
        found.insert(0, ChangedKey("corpus", *corpora))
    return found


def _flat(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested data with their paths; empty containers are leaves."""
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list | tuple) and any(isinstance(own, Mapping) for own in tree):
        for number, value in enumerate(tree):
            yield from _flat(value, f"{key}.{_name_in(value, number)}")
    elif isinstance(tree, str):
        yield key, mask_addresses(tree)
    else:
        yield key, tree


def _name_in(value: Any, number: int) -> str:
    """Return the name of an element of a list: a set of rules has one, others their position."""
    name = value.get("rules") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) else str(number)
