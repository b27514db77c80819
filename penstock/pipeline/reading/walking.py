"""Walk a directory, or the names that a pattern matches, on a disk and in a store alike.

Rules of a walk:

- Names that begin with ``.`` or ``_`` are left out below the root, and a wildcard matches them only
  if the pattern begins with that character. Writers put there what is no data: ``_temporary``,
  ``_SUCCESS``, ``._x``, ``.ipynb_checkpoints``. ``_key=value`` is a partition, and read.
- Links that another user made are an error (:mod:`penstock.opening`).
- Links to directories are followed after all other directories, and no directory is read twice, so
  cycles end.
- A work directory is never entered: that of the recipe by its path with all links resolved, as the
  node's cache, and another by its files. Where the walk begins in one (``work: .``), only what
  Penstock has made there is left out.
- A name that exists as a pattern spells it, and that the pattern would not match (``a[1].jsonl``),
  is meant literally.

All that is left out is recorded (:mod:`penstock.pipeline.reading.left_out`). The walk is a loop,
not a recursion, and takes one listing of each directory; below a directory of a store, one listing
of all keys.
"""

from __future__ import annotations

import fnmatch
import glob
import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from penstock.artefact import is_of_work
from penstock.errors import InputError
from penstock.opening import check_links
from penstock.pipeline.reading.left_out import LeftOut
from penstock.pipeline.reading.readers import AS_TEXT, KINDS
from penstock.pipeline.reading.saved_datasets import dataset_names
from penstock.storage import (
    DANGLING,
    DIRECTORY,
    FILE,
    SPECIAL,
    AnyPath,
    Child,
    child_at,
    children_of,
    real_path,
    sizes_under,
)

__all__ = ["FoundFile", "Walk"]

_WORK = {"corpus", "inputs.json", "lease"}
"""Names that every work directory has once a corpus is made in it."""


def _is_hidden(name: str) -> bool:
    """Return whether a name is of no data by convention."""
    return (
        name.startswith(".")
        or (name.startswith("_") and "=" not in name)
        or name == "lost+found"  # which only root may list
    )


def _check_links(path: AnyPath) -> None:
    """Refuse links of other users at once; they are looked at again when a file is opened."""
    if isinstance(path, Path):
        check_links(path)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of a format that is read."""

    path: AnyPath
    real: str
    """Its path with all links resolved."""
    twin: tuple[int, int] | None = None
    """Device and inode of a file that has several names, by hard links."""


@dataclass(frozen=True, slots=True, order=True)
class _Directory:
    """A directory to look into."""

    name: str
    """Its path as text, by which places are ordered."""
    path: AnyPath = field(compare=False)
    real: str = field(compare=False)
    """Its path with all links resolved."""
    parts: tuple[str, ...] = field(compare=False)
    """The rest of the pattern; empty: all that is below is read."""
    link: bool = field(default=False, compare=False)


_Found: TypeAlias = Iterator[FoundFile | _Directory]


class Walk:
    """Walks of one recipe.

    Args:
        own: Directories of Penstock itself: the recipe's work directory, the cache of the node.
        can_read: Returns whether a reader knows the name of a file.
    """

    def __init__(self, own: Iterable[AnyPath], can_read: Callable[[str], bool]) -> None:
        self.left_out = LeftOut()
        self._own = [real_path(directory).rstrip("/") for directory in own]
        self._others: list[str] = []
        """Work directories of other recipes that this walk has met."""
        self.any_kind = False
        """Whether files of all endings are read: an item gives their format."""
        self._can_read = can_read
        self._split = self._top = ""
        self._seen: set[tuple[str, tuple[str, ...]]] = set()
        self._listings: dict[str, list[Child]] = {}
        """Entries of the directories of stores that were listed with all below them."""

    def files(self, top: AnyPath, pattern: Sequence[str], split: str) -> Iterator[FoundFile]:
        """Yield the files that a pattern matches, or that are below a directory, in some order.

        Args:
            top: The directory where the pattern begins.
            pattern: Names and patterns of each level; empty for all files below ``top``.
            split: The split that is read of datasets saved to disk.

        Raises:
            InputError: A link that would be read leads to nothing, or another user made it
                (:mod:`penstock.opening`); or a file that the pattern matches is of no format that
                is read.
        """
        self._split = split
        self._seen.clear()
        self._listings.clear()
        self._others.clear()
        _check_links(top)
        parts = tuple(pattern)
        while parts[-1:] == ("**",):  # all below, as without a pattern
            parts = parts[:-1]
        self._top = real_path(top).rstrip("/")
        places, links = (
            [_Directory(str(top).rstrip("/"), top, self._top, parts)],
            list[_Directory](),
        )
        if self._is_work(self._top):
            return
        while places or links:
            # Links last, so that the files of a directory have its own name, and in one order.
            place = places.pop() if places else heapq.heappop(links)
            for found in self._look(place):
                if isinstance(found, FoundFile):
                    yield found
                elif found.link:
                    heapq.heappush(links, found)
                else:
                    places.append(found)

    def named(self, path: AnyPath, child: Child) -> Iterator[FoundFile]:
        """Yield a file that the recipe names; raises as :meth:`files`."""
        _check_links(path)
        self._top = real = real_path(path)
        if not self._is_work(real):
            yield from self._take(child, path, real, named=True)

    def _look(self, place: _Directory) -> _Found:
        if (place.real, place.parts) in self._seen:
            self.left_out.linked |= {place.name} if place.link else set()
            return
        self._seen.add((place.real, place.parts))
        head, rest = (place.parts[0], place.parts[1:]) if place.parts else ("*", ())
        if not glob.has_magic(head):
            child = child_at(place.path / head)
            if child is not None:
                yield from self._enter(place, child, rest, named=True)
            return
        children = self._children(place)
        names = {child.name for child in children}
        if names >= _WORK and place.real not in self._own:
            self._others.append(place.real)
            if self._is_work(place.real):
                return
        if head == "**":  # no directory, or one and the rest again
            yield replace(place, parts=rest, link=False)
            rest, children = place.parts, [one for one in children if one.kind == DIRECTORY]
        matches = re.compile(fnmatch.translate("*" if head == "**" else head)).match
        literal = head in names and not matches(head)
        data = dataset_names(place.path, names, self._split)
        for child in children:
            if child.name != head if literal else not matches(child.name):
                continue
            if _is_hidden(child.name) and (child.name[0] != head[0] or not place.parts):
                self.left_out.hidden.add(f"{place.name}/{child.name}")
            elif data is not None and child.name not in data:
                self.left_out.saved.add(f"{place.name}/{child.name}")
            else:
                yield from self._enter(place, child, rest, named=bool(place.parts))

    def _enter(self, place: _Directory, child: Child, rest: tuple[str, ...], named: bool) -> _Found:
        """Yield a file, or a directory to look into."""
        path = place.path / child.name
        plain = not child.link and child.name != ".."
        real = f"{place.real.rstrip('/')}/{child.name}" if plain else real_path(path)
        if child.kind == DIRECTORY:
            name = f"{place.name}/{child.name}"
            if not self._is_work(real):
                if child.link:
                    _check_links(path)
                yield _Directory(name, path, real, rest, child.link)
        elif not rest:
            yield from self._take(child, path, real, named)

    def _take(self, child: Child, path: AnyPath, real: str, named: bool) -> Iterator[FoundFile]:
        known = self.any_kind or self._can_read(child.name)
        if child.kind == FILE and known:
            if not self._is_work(real):
                if child.link:
                    _check_links(path)
                yield FoundFile(path, real, child.twin)
        elif child.kind == DANGLING and (known or named):
            raise InputError(
                "a link that leads to no file",
                file=path,
                fix="fetch the file that it should lead to, or remove the link",
            )
        elif child.kind == SPECIAL and named:
            raise InputError(
                file=path, expected="a file", got=f"a {SPECIAL}", fix="write it to a file"
            )
        elif named:
            raise InputError(
                "unknown kind of file",
                file=path,
                expected=KINDS,
                fix=f"narrow the pattern; or {AS_TEXT}",
            )
        elif child.kind == SPECIAL:
            self.left_out.special.add(str(path))
        else:
            self.left_out.other_kinds.add(str(path))

    def _is_work(self, real: str) -> bool:
        """Return whether a path is in a directory of Penstock itself, which is noted.

        Of one that the walk begins in, only what Penstock has made there.
        """
        for directory in (*self._own, *self._others):
            if real != directory and not real.startswith(f"{directory}/"):
                continue
            begun = self._top == directory or self._top.startswith(f"{directory}/")
            if not begun or is_of_work(real.removeprefix(directory).lstrip("/")):
                self.left_out.work.add(directory)
                return True
        return False

    def _children(self, place: _Directory) -> Sequence[Child]:
        """List a directory; with all keys below it in a store, where all levels are wanted."""
        if place.name in self._listings:
            return self._listings[place.name]
        try:
            if isinstance(place.path, Path) or place.parts[:1] not in ((), ("**",)):
                return children_of(place.path)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        found: dict[str, dict[str, Child]] = {place.name: {}}
        for key in sizes_under(place.path):
            above = place.name
            *directories, name = key.split("/")
            if "" in directories or not name:  # no path can name it
                self.left_out.special.add(f"{place.name}/{key}")
                continue
            for directory in directories:
                found[above].setdefault(directory, Child(directory, DIRECTORY))
                above = f"{above}/{directory}"
                found.setdefault(above, {})
            found[above][name] = Child(name, FILE)
        self._listings |= {name: list(own.values()) for name, own in found.items()}
        return self._listings[place.name]
