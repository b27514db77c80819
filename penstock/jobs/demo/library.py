"""The demo's target: the standard library's docstrings, split by module into two halves.

Modules written in C are left out, since nothing is imported.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from penstock.errors import InputError
from penstock.jobs.demo.files import UnreadableError, drawn, read, walk
from penstock.jobs.demo.pieces import (
    Passage,
    Piece,
    docstrings,
    documents,
    telling,
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

    aim: list[Passage]
    held_out: list[Passage]
    unseen: frozenset[str]
    """Telling lines and short docstrings of the half held out."""
    copies: int
    """Pieces left out of ``aim`` because they repeat the other half."""
    unread: int
    """Files that are not UTF-8, or not Python though named so."""


class _LibraryFile(NamedTuple):
    name: str
    family: str
    pieces: list[Piece]


def split_library(library: Path, seed: int, longest: int) -> Halves:
    """Split the standard library's docstrings, in documents of at most ``longest`` characters.

    Raises:
        InputError: The directory has fewer than two modules with docstrings.
    """
    files: list[_LibraryFile] = []
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
            files.append(_LibraryFile(name, _family(name), pieces))
    files.sort(key=lambda file: file.family)
    first = _first_half(files, seed)
    unseen = frozenset(
        line
        for file in files
        if file.family not in first
        for piece in file.pieces
        for line in telling(piece.text)
    )
    aim: list[Passage] = []
    held_out: list[Passage] = []
    copies = 0
    for file in files:
        if file.family in first:
            own = without_copies(file.pieces, unseen)
            copies += len(file.pieces) - len(own)
            aim.extend(documents(file.name, own, longest))
        else:
            held_out.extend(documents(file.name, file.pieces, longest))
    if not aim or not held_out:
        raise InputError(
            file=library,
            expected="the standard library's modules with docstrings",
            got=len(files),
            fix="run the demo with a Python that has its library as files",
        )
    return Halves(_distinct(aim), _distinct(held_out), unseen, copies, unread)


def limited(examples: list[Passage], size: int, seed: int) -> list[Passage]:
    """Draw examples of at most ``size`` bytes, at least one, and keep their order."""
    order = drawn([example.id for example in examples], seed, "limit")
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


def _first_half(files: list[_LibraryFile], seed: int) -> set[str]:
    """Draw families in a random order, up to about half of all characters."""
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.family] += sum(len(piece.text) for piece in file.pieces)
    families = list(sizes)
    left = sizes.total() / 2
    first: set[str] = set()
    for index in drawn(families, seed, "split"):
        family = families[index]
        if sizes[family] / 2 > left:
            break
        first.add(family)
        left -= sizes[family]
    return first


def _distinct(examples: list[Passage]) -> list[Passage]:
    """Keep the first passage of each text."""
    first: dict[str, Passage] = {}
    for example in examples:
        first.setdefault(example.text, example)
    return list(first.values())
