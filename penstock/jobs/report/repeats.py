"""Copies of documents: how many there are of each that stays, from the verdicts of cleaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.columnar import read_batch
from penstock.jobs.curate import Curated
from penstock.pipeline.cleaning.settings import CleanSettings

__all__ = ["CopyCounts", "count_copies"]

_MOST = 20_000_000
"""Duplicates of which the document that stays is held, 8 bytes each; of more only the sum is."""

_SIZES = ((1, 1), (2, 2), (3, 5), (6, 10), (11, 100), (101, None))
"""Copies of one document, counted together: from, and up to; the last has no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyCounts:
    """Duplicates that were dropped, and the documents that stayed in their place."""

    dropped: int
    near: float | None
    """The similarity (Jaccard) from which documents are near-duplicates; None for equal ones."""
    stay: int
    """Documents that stayed in the place of copies; 0 where this is not counted."""
    sizes: tuple[tuple[str, int], ...]
    """Numbers of copies, as ``3 to 5``, and the documents with so many."""
    largest: tuple[tuple[str, int], ...]
    """The ids of the documents with the most copies, and their number."""


def count_copies(curated: Curated, most: int = 5) -> CopyCounts:
    """Count the copies of each document that stays.

    Args:
        curated: What was curated.
        most: Documents with the most copies to name.
    """
    pool, near = curated.pool, CleanSettings.of(curated.recipe).near
    files = pool.verdicts.named("reasons-")
    parts, dropped = [np.empty(0, np.uint64)], 0
    for record in files:
        batch = read_batch(pool.verdicts.verified(record))
        group = batch.column("of_group")
        known = group.is_valid()
        dropped += int(known.true_count)
        if known.true_count and dropped <= _MOST:
            of_group = group.filter(known).to_numpy().astype(np.uint64)
            of_row = batch.column("of_row").filter(known).to_numpy().astype(np.uint64)
            parts.append(of_group << np.uint64(32) | of_row)
    threshold = None if near is None else near.signatures.threshold
    if dropped > _MOST:
        return CopyCounts(dropped=dropped, near=threshold, stay=0, sizes=(), largest=())
    places, copies = np.unique(np.concatenate(parts), return_counts=True)
    sizes = []
    for first, last in _SIZES:
        few = copies >= first if last is None else (copies >= first) & (copies <= last)
        name = (
            f"{first}" if first == last else f"{first} to {last}" if last else f"over {first - 1}"
        )
        if few.any():
            sizes.append((name, int(few.sum())))
    largest = []
    for place in np.argsort(-copies, kind="stable")[:most].tolist():
        record, row = files[int(places[place]) >> 32], int(places[place]) & 0xFFFFFFFF
        for unit in pool.units:
            if unit.kept is not None and unit.kept.record is record:
                at = row - unit.kept.start
                if 0 <= at < unit.of:
                    largest.append((unit.id_at(at), int(copies[place])))
    return CopyCounts(
        dropped=dropped,
        near=threshold,
        stay=len(places),
        sizes=tuple(sizes),
        largest=tuple(largest),
    )
