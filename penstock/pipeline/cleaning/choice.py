"""Which document of each component stays, by a shuffle to ranges of components and one back.

A *source* is a group of units, and a document its number << 32 | row in it. Only documents that
some other is like travel. A task reads a range of components whole, so its memory grows with the
largest component: about 300 bytes a document.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.artefact import FileRecord
from penstock.pipeline.cleaning.components import number_documents
from penstock.pipeline.cleaning.near_duplicates import RANGE_BYTES
from penstock.pipeline.cleaning.survivors import (
    STAYS,
    Bridged,
    Members,
    choose_survivors,
    count_bridged,
)
from penstock.pipeline.shuffle import Shuffle, range_of_number, ranges_for
from penstock.storage import AnyPath

__all__ = ["Choice", "Repeats"]

_FOUND = np.dtype(
    [("row", "<u4"), ("of_source", "<u4"), ("of_row", "<u4"), ("kept", "?"), ("equal", "?")]
)


@dataclass(frozen=True, slots=True, eq=False)
class Repeats:
    """The documents of a source that repeat one that stays: n of them."""

    rows: np.ndarray
    """(n,) int64, in the source."""
    of_source: np.ndarray
    """(n,) uint32: the source of the document that stays."""
    of_row: np.ndarray
    """(n,) uint32: its row there."""
    equal: np.ndarray
    """(n,) bool: its normalised text is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The state that all tasks share, and what each of them does."""

    directory: AnyPath
    """The draft."""
    sources: int
    ranges: int
    keys: int
    """Keys of a document."""

    @classmethod
    def of(cls, directory: AnyPath, sources: int, members: int, keys: int) -> Choice:
        """Choose the number of ranges, for so many documents of components."""
        ranges = ranges_for(members, _member(keys), RANGE_BYTES)
        return cls(directory=directory, sources=sources, ranges=ranges, keys=keys)

    def send(self, source: int, numbers: np.ndarray, members: Members) -> FileRecord:
        """Write a source's documents that belong to a component, by range of it.

        Args:
            source: Its number.
            numbers: (n,) int64: rows of the documents in the source.
            members: The n documents.
        """
        rows = np.empty(len(numbers), _member(self.keys))
        rows["component"] = members.components
        rows["document"] = number_documents(source, numbers)
        for name in ("kept", "best", "ties", "normal", "keys"):
            rows[name] = getattr(members, name)
        return self._sent.write(source, rows, range_of_number(rows["component"], self.ranges))

    def choose(self, number: int) -> FileRecord:
        """Choose among the documents of a range; facts ``bridged`` and ``bridged_documents``."""
        rows = self._sent.read(number)
        members = Members(
            components=rows["component"],
            **{name: rows[name] for name in ("kept", "best", "ties", "normal", "keys")},
        )
        survivors = choose_survivors(members, rows["document"])
        repeats = survivors != STAYS
        order = np.argsort(rows["document"])
        stays = order[np.searchsorted(rows["document"], survivors[repeats], sorter=order)]
        found = np.empty(len(stays), _FOUND)
        found["row"] = rows["document"][repeats] & 0xFFFFFFFF
        found["of_source"] = survivors[repeats] >> 32
        found["of_row"] = survivors[repeats] & 0xFFFFFFFF
        found["kept"] = rows["kept"][repeats]
        found["equal"] = (rows["normal"][repeats] == rows["normal"][stays]).all(axis=1)
        bridged = count_bridged(members)
        return self._found.write(
            number,
            found,
            rows["document"][repeats] >> 32,
            bridged=bridged.components,
            bridged_documents=bridged.documents,
        )

    def repeats(self, source: int) -> Repeats:
        """Read which documents of a source that nothing else excludes do not stay."""
        found = self._found.read(source)
        found = found[found["kept"]]
        return Repeats(
            found["row"].astype(np.int64), found["of_source"], found["of_row"], found["equal"]
        )

    @staticmethod
    def bridged(records: list[FileRecord]) -> Bridged:
        """Add up the bridged components of all ranges."""
        return Bridged(
            sum(record.facts["bridged"] for record in records),
            sum(record.facts["bridged_documents"] for record in records),
        )

    @property
    def _sent(self) -> Shuffle:
        return self._shuffle("members", _member(self.keys), self.ranges, self.sources)

    @property
    def _found(self) -> Shuffle:
        return self._shuffle("found", _FOUND, self.sources, self.ranges)

    def _shuffle(self, name: str, dtype: np.dtype, groups: int, sources: int) -> Shuffle:
        return Shuffle(
            directory=self.directory, name=name, dtype=dtype, groups=groups, sources=sources
        )


def _member(keys: int) -> np.dtype:
    """Return the record type of a document of a component."""
    return np.dtype(
        [
            ("component", "<i8"),
            ("document", "<i8"),
            ("kept", "?"),
            ("best", "<f8"),
            ("ties", "<u8", (2,)),
            ("normal", "<u8", (2,)),
            ("keys", "<u8", (keys,)),
        ]
    )
