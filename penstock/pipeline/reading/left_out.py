"""Names that were met in search of input files and not read: by kind, in few words, with counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from penstock.display import printable

__all__ = ["LEFT_OUT", "LeftOut", "describe", "listed"]

LEFT_OUT = "left out, "
"""Begins the lines of the log."""

_SHOWN = 3
"""Most names in a line."""

_ENDINGS = 12
"""Most endings of files in a line and in a manifest."""

_ENDING = 16
"""Characters of a longer ending that are shown."""

_WRAPPED = {".gz", ".zst", ".xz", ".bz2", ".lz4", ".zip"}
"""Endings that say nothing of what is in the file."""


@dataclass(slots=True)
class LeftOut:
    """Names that walks met and did not read: paths, each with its reason."""

    hidden: set[str] = field(default_factory=set)
    """Begin with ``.`` or ``_``; nothing below such a directory is counted."""
    other_kinds: set[str] = field(default_factory=set)
    """Files that no reader reads."""
    special: set[str] = field(default_factory=set)
    """Pipes, sockets and devices."""
    work: set[str] = field(default_factory=set)
    """Work directories."""
    named: set[str] = field(default_factory=set)
    """Files that another key of the recipe names."""
    saved: set[str] = field(default_factory=set)
    """Files of a dataset saved to disk that are no data of its split."""
    splits: set[str] = field(default_factory=set)
    """Splits of datasets: ``DIRECTORY: SPLIT``, of the hub ``hf:NAME@COMMIT: SPLIT``."""
    linked: set[str] = field(default_factory=set)
    """Links to directories that are read by another name."""

    def without(self, read: Set[str]) -> LeftOut:
        """Return these names but for files that are read nevertheless, by another item."""
        return LeftOut(**{own.name: getattr(self, own.name) - read for own in fields(self)})


_WORDS = {
    "hidden": "names that begin with . or _",
    "other_kinds": "files of other kinds",
    "special": "pipes, sockets and devices",
    "work": "work directories of Penstock",
    "named": "files that another key of the recipe names",
    "saved": "files beside the data of datasets saved to disk",
    "splits": "other splits of Hugging Face datasets",
    "linked": "links to directories that are read already",
}


def describe(left_out: LeftOut, directory: Path) -> tuple[dict[str, Any], list[str]]:
    """Count what was left out, and say it.

    Args:
        left_out: Paths.
        directory: The recipe's; names below it are shown from there on.

    Returns:
        Counts by kind, those of other kinds by ending; a line for each kind.
    """
    counts: dict[str, Any] = {}
    lines = []
    for kind, words in _WORDS.items():
        paths: set[str] = getattr(left_out, kind)
        if not paths:
            continue
        if kind == "other_kinds":
            counts[kind] = _by_ending(paths)
            shown = ", ".join(f"{count:,} {ending}" for ending, count in counts[kind].items())
        else:
            counts[kind] = len(paths)
            here = f"{os.path.abspath(directory)}/"
            shown = listed(path.removeprefix(here) for path in paths)
        lines.append(f"{LEFT_OUT}{words}: {len(paths):,} ({shown})")
    return counts, lines


def listed(names: Iterable[str]) -> str:
    """Write the first names, and how many others there are."""
    ordered = sorted(map(printable, names))
    more = f" and {len(ordered) - _SHOWN:,} more" if len(ordered) > _SHOWN else ""
    return f"{', '.join(ordered[:_SHOWN])}{more}"


def _by_ending(paths: Iterable[str]) -> dict[str, int]:
    """Count files by ending, the most frequent first; the last entry may be of all others."""
    counts = Counter(map(_ending, paths))
    ordered = sorted(counts.items(), key=lambda own: (-own[1], own[0]))
    found = dict(ordered[:_ENDINGS])
    if others := ordered[_ENDINGS:]:
        found[f"with {len(others):,} other endings"] = sum(count for _, count in others)
    return found


def _ending(path: str) -> str:
    name = printable(path.rpartition("/")[2])
    stem, last = os.path.splitext(name)
    ending = os.path.splitext(stem)[1] * (last.lower() in _WRAPPED) + last
    if len(ending) > _ENDING:
        ending = f"{ending[:_ENDING]}…"
    return ending or "without ending"
