"""Excerpts of documents: those that a cut takes first, and some that it leaves."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.hashing import hash_ids, mix
from penstock.jobs.curate import Curated
from penstock.pipeline.cutting.ranks import first_ranked
from penstock.pipeline.units import Unit, units_of

__all__ = ["Excerpt", "excerpt", "first_taken", "some_left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """One document of a report."""

    id: str
    source: str
    text: str
    rank: int | None = None

    def excerpt(self, length: int = 240) -> str:
        """Return the beginning of the text, on one line."""
        return excerpt(self.text, length)


def excerpt(text: str, length: int = 240) -> str:
    """Return the beginning of a text, on one line, cut between words."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length].rsplit(" ", 1)[0] + " …"


def first_taken(curated: Curated, count: int) -> list[Excerpt]:
    """Read the ``count`` documents that the cut takes first, in the order of their ranks."""
    units = units_of(curated.corpus)
    first = first_ranked(curated.cut, count)
    return [_read(units[number], row, rank) for rank, (number, row) in enumerate(first, 1)]


def some_left(curated: Curated, count: int) -> list[Excerpt]:
    """Read ``count`` documents that were not taken, drawn by hash of id."""
    key = mix(curated.recipe.seed, "look")
    drawn: list[tuple[int, int, int]] = []
    units = units_of(curated.corpus)
    for unit, record in zip(units, curated.cut.files):
        with pq.ParquetFile(unit.path()) as file:
            hashes = hash_ids(file.read(["id"]).column("id"), key)
        table = pq.read_table(curated.cut.verified(record), columns=["row"])
        left = np.setdiff1d(np.arange(len(hashes)), table.column("row").to_numpy())
        few = left[np.argsort(hashes[left], kind="stable")[:count]]
        drawn = heapq.nsmallest(
            count, [*drawn, *((int(hashes[row]), unit.number, int(row)) for row in few)]
        )
    return [_read(units[number], row) for _, number, row in drawn]


def _read(unit: Unit, row: int, rank: int | None = None) -> Excerpt:
    with pq.ParquetFile(unit.path()) as file:
        document = file.read(["id", "source", "text"]).take(pa.array([row])).to_pylist()[0]
    return Excerpt(**document, rank=rank)
