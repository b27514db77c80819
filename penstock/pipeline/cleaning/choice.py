"""Which document of each component stays, by a shuffle to ranges of components and one back.

A *source* is a group of units, and a document its number << 32 | row in it. Of each component a
source sends its best document that is kept, one that is excluded, and of the others those of
different keys, by which bridges are counted: a million equal documents are one row. It is sent back
the document that stays of each of its components. So a task's memory grows with the different
documents of a component, not with all of them.
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
    [("component", "<i8"), ("of_source", "<u4"), ("of_row", "<u4"), ("normal", "<u8", (2,))]
)
_ODD = np.uint64(0x9E3779B97F4A7C15)


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

    def send(self, source: int, numbers: np.ndarray, members: Members, **facts: int) -> FileRecord:
        """Write a source's documents that belong to a component, by range of it.

        Args:
            source: Its number.
            numbers: (n,) int64: rows of the documents in the source.
            members: The n documents.
            facts: Values for the record.
        """
        own = _representatives(members, numbers)
        rows = np.empty(len(own), _member(self.keys))
        rows["component"] = members.components[own]
        rows["document"] = number_documents(source, numbers[own])
        for name in ("kept", "best", "ties", "normal", "keys"):
            rows[name] = getattr(members, name)[own]
        return self._sent.write(
            source, rows, range_of_number(rows["component"], self.ranges), **facts
        )

    def choose(self, number: int) -> FileRecord:
        """Choose among the documents of a range; facts ``bridged`` and ``bridged_documents``."""
        rows = self._sent.read(number)
        members = Members(
            components=rows["component"],
            **{name: rows[name] for name in ("kept", "best", "ties", "normal", "keys")},
        )
        stay = members.kept & (choose_survivors(members, rows["document"]) == STAYS)
        staying = rows[stay]
        staying = staying[np.argsort(staying["component"])]
        pairs = np.unique(np.stack([rows["document"] >> 32, rows["component"]], axis=1), axis=0)
        sources, components = pairs[:, 0], pairs[:, 1]
        at, known = _find(staying["component"], components)
        found = np.empty(len(at), _FOUND)
        found["component"] = components[known]
        found["of_source"] = staying["document"][at] >> 32
        found["of_row"] = staying["document"][at] & 0xFFFFFFFF
        found["normal"] = staying["normal"][at]
        bridged = count_bridged(members)
        return self._found.write(
            number,
            found,
            sources[known],
            bridged=bridged.components,
            bridged_documents=bridged.documents,
        )

    def repeats(
        self, source: int, numbers: np.ndarray, components: np.ndarray, normal: np.ndarray
    ) -> Repeats:
        """Find the documents of a source that do not stay.

        Args:
            source: Its number.
            numbers: (n,) int64: rows of documents that belong to a component and are kept.
            components: (n,) int64.
            normal: (n, 2) uint64: the hashes of their normalised texts.
        """
        found = self._found.read(source)
        found = found[np.argsort(found["component"])]
        at, known = _find(found["component"], components)
        assert known.all()  # a kept document's component has one that stays
        stays = found[at]
        repeat = (stays["of_source"] != source) | (stays["of_row"] != numbers)
        return Repeats(
            numbers[repeat],
            stays["of_source"][repeat],
            stays["of_row"][repeat],
            (stays["normal"] == normal).all(axis=1)[repeat],
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


def _representatives(members: Members, numbers: np.ndarray) -> np.ndarray:
    """Return the rows of a source's documents that decide for all: ascending int64."""
    kept = members.kept
    best = np.flatnonzero(kept & (choose_survivors(members, numbers) == STAYS))
    hashes = members.components.astype(np.uint64) * _ODD
    for keys in members.keys.T:
        hashes = (hashes ^ keys) * _ODD
    inside, outside = np.flatnonzero(kept), np.flatnonzero(~kept)
    _, different = np.unique(hashes[inside], return_index=True)
    _, excluded = np.unique(members.components[outside], return_index=True)
    return np.unique(np.concatenate([best, inside[different], outside[excluded]]))


def _find(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places in ``known``, ascending and different, of those wanted that are in it.

    Returns:
        (m,) int64, and which of the n are found, (n,) bool.
    """
    at = np.searchsorted(known, wanted)
    found = np.zeros(len(wanted), bool)
    inside = at < len(known)
    found[inside] = known[at[inside]] == wanted[inside]
    return at[found], found


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
