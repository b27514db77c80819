"""The demo's target: the standard library's docstrings, split by module into two halves.

Modules written in C are left out, since nothing is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.errors import InputError
from penstock.jobs.demo.pieces import (
    Piece,
    UnreadableError,
    docstrings,
    documents,
    drawn,
    read,
    telling,
    walk,
    without_copies,
)

__all__ = ["Halves", "limited", "split_library"]

_NOT_LIBRARY = {
    "dist-packages",
    "encodings",
    "ensurepip",
    "idle_test",
    "idlelib",
    "lib-dynload",
    "pydoc_data",
    "site-packages",
    "turtledemo",
}
_TWINS = {
    "pydatetime": "datetime",
    "pydecimal": "decimal",
    "pyio": "io",
    "genericpath": "path",
    "ntpath": "path",
    "posixpath": "path",
}


@dataclass(frozen=True, slots=True)
class Halves:
    """Two halves that share no module and no telling line."""

    aim: list[Piece]
    held_out: list[Piece]
    unseen: frozenset[str]
    """Telling lines and short docstrings of the half held out."""
    copies: int
    """Pieces left out of ``aim`` because they repeat the other half."""
    unread: int
    """Files that are not UTF-8, or not Python though named so."""


def split_library(library: Path, seed: int, longest: int) -> Halves:
    """Split the standard library's docstrings, in documents of at most ``longest`` characters.

    Raises:
        InputError: The directory has fewer than two modules with docstrings.
    """
    families: dict[str, dict[str, list[Piece]]] = {}
    unread = 0
    for name, path in walk(library, _NOT_LIBRARY):
        if path.suffix != ".py":
            continue
        try:
            pieces = docstrings(read(path))
        except UnreadableError:
            unread += 1
            continue
        if pieces:
            families.setdefault(_family(name), {})[name] = pieces
    first = _first_half(families, seed)
    unseen = frozenset(
        line
        for family, files in families.items()
        if family not in first
        for pieces in files.values()
        for piece in pieces
        for line in telling(piece.text)
    )
    aim: list[Piece] = []
    held_out: list[Piece] = []
    copies = 0
    for family, files in sorted(families.items()):
        for name, pieces in files.items():
            own = without_copies(pieces, unseen) if family in first else pieces
            copies += len(pieces) - len(own)
            half = aim if family in first else held_out
            half.extend(documents(name, own, longest))
    if not aim or not held_out:
        raise InputError(
            file=library,
            expected="the standard library's modules with docstrings",
            got=sum(map(len, families.values())),
            fix="run the demo with a Python that has its library as files",
        )
    return Halves(_distinct(aim), _distinct(held_out), unseen, copies, unread)


def limited(examples: list[Piece], size: int, seed: int) -> list[Piece]:
    """Draw examples of at most ``size`` bytes, at least one, and keep their order."""
    order = drawn([example.name for example in examples], seed, "limit")
    ends = np.cumsum([len(examples[index].text.encode()) for index in order])
    count = max(1, int(np.searchsorted(ends, size, side="right")))
    return [examples[index] for index in sorted(order[:count])]


def _family(name: str) -> str:
    """Return the family that decides a file's half: its top module, twins in one family.

    ``_pydecimal`` and ``decimal``, ``ntpath`` and ``posixpath`` have nearly the same docstrings; in
    different halves one would reveal the other.
    """
    module = name.partition("/")[0].removesuffix(".py").lstrip("_")
    return _TWINS.get(module, module)


def _first_half(families: dict[str, dict[str, list[Piece]]], seed: int) -> set[str]:
    """Draw families in a random order, up to about half of all characters."""
    sizes = {
        family: sum(len(piece.text) for pieces in files.values() for piece in pieces)
        for family, files in sorted(families.items())
    }
    names = list(sizes)
    left = sum(sizes.values()) / 2
    first: set[str] = set()
    for index in drawn(names, seed, "split"):
        size = sizes[names[index]]
        if size / 2 > left:
            break
        first.add(names[index])
        left -= size
    return first


def _distinct(examples: list[Piece]) -> list[Piece]:
    """Keep the first passage of each text."""
    first: dict[str, Piece] = {}
    for example in examples:
        first.setdefault(example.text, example)
    return list(first.values())
