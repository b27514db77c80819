"""Members of a user's selector that nearly have the name of one that it lacks, such as ``fitt``.

A class without an optional member is sound, so that no error would name it.
"""

from __future__ import annotations

import difflib
from typing import Any

from penstock.selectors.adapter import class_of, is_users
from penstock.selectors.functions import PluggedFunction

__all__ = ["misspelt_members"]

_OPTIONAL = ("fit", "save", "load", "identity", "version", "requirements", "paths", "partitions")
"""Members of a selector that are looked for, and have a default where they are not there."""


def misspelt_members(plug: Any) -> list[tuple[str, str]]:
    """Return the members of a user's class that nearly have the name of one that it lacks.

    Args:
        plug: A selector, a class's object or behind an adapter.

    Returns:
        Each with the name that it may be meant for, sorted.
    """
    thing = class_of(plug)
    if not is_users(plug) or isinstance(plug, PluggedFunction):
        return []
    lacks = [name for name in _OPTIONAL if name not in dir(thing) or _is_default(thing, name)]
    own = [name for one in thing.__mro__ if one is not object for name in vars(one)]
    found = set()
    for name in own:
        near = difflib.get_close_matches(name, lacks, n=1, cutoff=0.82)
        if near and name not in _OPTIONAL and name[0] != "_":
            found.add((name, near[0]))
    return sorted(found)


def _is_default(thing: type, name: str) -> bool:
    """Return whether a member is one of Penstock's base class."""
    owner = next(one for one in thing.__mro__ if name in vars(one))
    return owner.__module__.startswith("penstock.")
