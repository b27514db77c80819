"""Copies of documents: how many there are of each that stays, from the verdicts of cleaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.columnar import read_batch, read_parquet
from penstock.jobs.curate import Curated
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.pool import Pool, pools_of
from penstock.pipeline.units import generations

__all__ = ["CopyCounts", "count_copies"]

_MOST = 20_000_000
"""Duplicates of which the document that stays is held, 16 bytes each with its own place; of more
only the sum is."""

_SIZES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 100), (101, None))
"""Copies of one document, counted together: from, and up to; the last has no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyCounts:
    """Duplicates that were dropped, and the documents that stayed in their place."""

    dropped: int
    near: float | None
    """The similarity (Jaccard) from which documents are near-duplicates; None for equal ones."""
    stay: int
    """Documents that stayed in the place of copies; 0 where this is not counted. A document that a
    rule drops after a rewriter is among them, if it stayed before it."""
    sizes: tuple[tuple[str, int], ...]
    """Numbers of copies, as ``3 to 5``, and the documents with so many."""
    largest: tuple[tuple[str, int], ...]
    """The ids of the documents with the most copies, and their number."""


def count_copies(curated: Curated, most: int = 5) -> CopyCounts:
    """Count the copies of each document that stays.

    With a rewriter there are verdicts before it and after it. A document that stays after both has
    the copies of both; one that is itself a copy after it gives its own to the one that stays.

    Args:
        curated: What was curated.
        most: Documents with the most copies to name.
    """
    near = CleanSettings.of(curated.recipe).near
    threshold = None if near is None else near.signatures.threshold
    places = [_Places(pool) for pool in pools_of(curated.pool)][::-1]  # in the order of the work
    found = [one.copies() for one in places]
    dropped = sum(own.dropped for own in found)
    if dropped > _MOST:
        return CopyCounts(dropped=dropped, near=threshold, stay=0, sizes=(), largest=())
    stay = list(_added_up(places, found))
    copies = np.concatenate([own.copies for own in stay])
    sizes = []
    for first, last in _SIZES:
        few = copies >= first if last is None else (copies >= first) & (copies <= last)
        name = (
            f"{first}" if first == last else f"{first} to {last}" if last else f"over {first - 1}"
        )
        if few.any():
            sizes.append((name, int(few.sum())))
    largest = []
    ends = np.cumsum([len(own.copies) for own in stay])
    for number in np.argsort(-copies, kind="stable")[:most].tolist():
        at = int(np.searchsorted(ends, number, "right"))
        own = stay[at]
        place = int(own.place[number - int(ends[at])])  # counted from the end
        largest.append((own.of.id_at(place), int(copies[number])))
    return CopyCounts(
        dropped=dropped,
        near=threshold,
        stay=len(copies),
        sizes=tuple(sizes),
        largest=tuple(largest),
    )


@dataclass(frozen=True, slots=True)
class _DroppedCopies:
    """The duplicates that the verdicts of one pool drop, c of them, as places in its corpus."""

    dropped: int
    row: np.ndarray
    """(c,) uint64, the place of each; not all are there where they are too many."""
    of: np.ndarray
    """(c,) uint64, the place of the document that stays."""


class _Places:
    """The documents of a pool's corpus by their places, as the verdicts name them.

    A place has the number of its group of units above, and its row in the group below 32 bits.

    Args:
        pool: The pool.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._files = pool.verdicts.named("reasons-")
        numbers = {id(record): number for number, record in enumerate(self._files)}
        kept = [unit.kept for unit in pool.units if unit.kept is not None]
        first = [numbers[id(own.record)] << 32 | own.start for own in kept]
        self.first = np.array(first, np.uint64)
        """(units,) uint64, the place of each unit's first document."""

    def copies(self) -> _DroppedCopies:
        """Read the duplicates that are dropped."""
        rows, of, dropped = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], 0
        for number, record in enumerate(self._files):
            batch = read_batch(self.pool.verdicts.verified(record))
            group = batch.column("of_group")
            known = group.is_valid()
            dropped += int(known.true_count)
            if known.true_count and dropped <= _MOST:
                of_group = group.filter(known).to_numpy().astype(np.uint64)
                of_row = batch.column("of_row").filter(known).to_numpy().astype(np.uint64)
                of.append(of_group << np.uint64(32) | of_row)
                own = np.flatnonzero(known.to_numpy(zero_copy_only=False)).astype(np.uint64)
                rows.append(np.uint64(number << 32) | own)
        return _DroppedCopies(dropped, np.concatenate(rows), np.concatenate(of))

    def unit_of(self, place: np.ndarray) -> np.ndarray:
        """Return the number of the unit of each of (m,) places: (m,) int64."""
        return np.searchsorted(self.first, place, "right") - 1

    def id_at(self, place: int) -> str:
        """Read the id of a document."""
        number = int(self.unit_of(np.array([place], np.uint64))[0])
        return self.pool.units[number].id_at(place - int(self.first[number]))

    def after(self, place: np.ndarray, later: _Places) -> tuple[np.ndarray, np.ndarray]:
        """Find documents in the corpus that rewriters made of this one.

        Args:
            place: (m,) uint64, ascending.
            later: The pool of that corpus.

        Returns:
            (m,) bool, those that are in it; and the places of these there, uint64.
        """
        emptied = _emptied(self.pool, later.pool)
        names = {unit.name: number for number, unit in enumerate(later.pool.units)}
        through, found = np.zeros(len(place), bool), np.zeros(len(place), np.uint64)
        numbers = self.unit_of(place)
        for number in np.unique(numbers).tolist():
            unit, own = self.pool.units[number], np.flatnonzero(numbers == number)
            # A rewritten unit is named by the one that it was made from, and in its order.
            rows = np.setdiff1d(unit.numbers(), emptied.get(unit.name, []))
            wanted = (place[own] - self.first[number]).astype(np.int64)
            at = np.searchsorted(rows, wanted)
            there = np.isin(wanted, rows)
            if there.any():
                begin = later.first[names[f"{unit.name}-000"]]
                found[own[there]] = begin + at[there].astype(np.uint64)
                through[own[there]] = True
        return through, found[through]


@dataclass(frozen=True, slots=True)
class _Stayed:
    """Documents of one pool in whose place copies were dropped."""

    of: _Places
    place: np.ndarray
    """(m,) uint64."""
    copies: np.ndarray
    """(m,) int64, of each."""


def _added_up(places: Sequence[_Places], found: Sequence[_DroppedCopies]) -> Iterator[_Stayed]:
    """Add up the copies of verdicts that follow one another; each document is in one result."""
    place, copies = np.empty(0, np.uint64), np.empty(0, np.int64)
    for number, (own, these) in enumerate(zip(places, found)):
        order = np.argsort(these.row) if len(place) else place
        if len(order):
            at = np.searchsorted(these.row[order], place).clip(0, len(order) - 1)
            again = these.row[order][at] == place
            place = np.where(again, these.of[order][at], place)
        counted = np.concatenate([copies, np.ones(len(these.of), np.int64)])
        place, inverse = np.unique(np.concatenate([place, these.of]), return_inverse=True)
        copies = np.zeros(len(place), np.int64)
        np.add.at(copies, inverse, counted)
        if number + 1 == len(places):
            yield _Stayed(own, place, copies)
            return
        through, later = own.after(place, places[number + 1])
        yield _Stayed(own, place[~through], copies[~through])
        order = np.argsort(later)
        place, copies = later[order], copies[through][order]


def _emptied(earlier: Pool, later: Pool) -> dict[str, np.ndarray]:
    """Return the rows, by unit of the earlier corpus, of which the rewriter after it left nothing.

    Each (k,) int64.
    """
    for corpus in generations(later.corpus):
        base = corpus.manifest["inputs"].get("corpus")
        if base == earlier.corpus.fingerprint and not corpus.facts["adds"]:
            return {
                f"unit-{record.path[8:].partition('.')[0]}": read_parquet(
                    corpus.verified(record), ["row"]
                )
                .column("row")
                .to_numpy()
                for record in corpus.named("dropped-")
            }
    return {}
