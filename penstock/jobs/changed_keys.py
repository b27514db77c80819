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

_ABSENT = object()
"""In place of a value, where a side has no such key."""


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """A key whose values differ."""

    key: str
    """As ``clean.rules.gopher.min_words``; of a list its position, from 0."""
    a: Any
    """The value as JSON; None where it is null, and where the side has no such key."""
    b: Any
    only: str | None = None
    """``a`` or ``b``, where that side alone has the key."""


def changed_keys(a: Side, b: Side) -> list[ChangedKey]:
    """Return the keys that differ, in their order, the defaults among them.

    They are the recipes' where both sides are recipes, else those of the artefacts. Where files
    changed and their names did not, ``corpus`` has the fingerprints of what was read. A null that
    one side's recipe writes is a value: ``min_stop_words: null`` switches a rule off.
    """
    as_written = a.recipe is not None and b.recipe is not None
    nulls: set[str] = set()
    for recipe in (a.recipe, b.recipe):
        if recipe is not None and as_written:
            nulls.update(_nulls(recipe.model_dump(mode="json", exclude_unset=True)))
    found = []
    for key, old, new in _differences(a.tree(as_written), b.tree(as_written)):
        if key in _UNSAID:
            continue
        only = "b" if old is _ABSENT else "a" if new is _ABSENT else None
        values = [None if own is _ABSENT else _masked(own) for own in (old, new)]
        if only is None or values != [None, None] or key in nulls:
            found.append(ChangedKey(key, values[0], values[1], only))
    corpora = [side.pool.corpus.fingerprint[:16] for side in (a, b)]
    if corpora[0] != corpora[1] and not any(one.key.startswith("corpus") for one in found):
        found.insert(0, ChangedKey("corpus", *corpora))
    return found


def _differences(a: Any, b: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path and both values of each key that differs, :data:`_ABSENT` where there is none.

    Mappings are compared by key, also with null, an empty list and nothing, which have no keys.
    Another value beside a mapping is one difference: neither was removed.
    """
    pair = [_by_name(own, other) for own, other in ((a, b), (b, a))]
    if any(isinstance(own, Mapping) and own for own in pair) and all(
        own is _ABSENT or own is None or isinstance(own, Mapping) for own in pair
    ):
        old, new = (own if isinstance(own, Mapping) else {} for own in pair)
        for name in dict.fromkeys([*old, *new]):
            path = f"{key}.{name}" if key else str(name)
            yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), path)
    elif _ABSENT in pair or canonical(pair[0]) != canonical(pair[1]):
        yield key, *pair


def _by_name(own: Any, other: Any) -> Any:
    """Return a list as a mapping where it is compared by key; other values as they are."""
    if isinstance(own, list | tuple):
        if any(isinstance(one, Mapping) for one in own):
            return {_name_in(one, number): one for number, one in enumerate(own)}
        if _keyed(other) and all(isinstance(one, str) for one in own):
            return {name: {} for name in own}  # sets of rules, with all parameters' defaults
    return own


def _keyed(value: Any) -> bool:
    """Return whether a value is compared by key."""
    several = isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value)
    return several or isinstance(value, Mapping)


def _name_in(value: Any, number: int) -> str:
    """Return the name of an element of a list: a set of rules has one, others their position."""
    name = value.get("rules") if isinstance(value, Mapping) else None
    return name if isinstance(name, str) else str(number)


def _nulls(tree: Any, key: str = "") -> Iterator[str]:
    """Yield the paths of nulls."""
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        path = f"{key}.{name}" if key else str(name)
        if value is None:
            yield path
        yield from _nulls(_by_name(value, None), path)


def _masked(value: Any) -> Any:
    """Return plain data without the passwords of addresses."""
    if isinstance(value, Mapping):
        return {name: _masked(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(own) for own in value]
    return mask_addresses(value) if isinstance(value, str) else value
