"""Read verdicts: why one document is not kept."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import pyarrow.compute as pc

from penstock.artefact import FileRecord
from penstock.columnar import read_batch, read_parquet
from penstock.pipeline.pool import Pool
from penstock.pipeline.units import Unit

__all__ = [
    "DocumentOverlap",
    "Failed",
    "FileOverlap",
    "document_overlaps",
    "failed_rules",
    "file_overlaps",
    "largest_overlaps",
    "repeated_by",
]


@dataclass(frozen=True, slots=True)
class Failed:
    """What the verdicts say of one document."""

    reason: str | None
    """The first reason; None if it is kept."""
    rules: tuple[str, ...]
    """Every rule of a set that it fails, ``set: rule``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOverlap:
    """The overlap of a pool's corpus with one evaluation file."""

    file: str
    documents: int
    """Documents that hold a copy of an example, in whole or in part."""
    examples: int
    """Examples of the file."""
    unchecked: int
    """Examples of fewer than five words, which are not looked for."""


@dataclass(frozen=True, slots=True)
class DocumentOverlap:
    """The overlap of a document with one evaluation file."""

    file: str
    example: int
    """The example with the most n-grams in the document, from 1."""
    share: float
    """The share of the document's words that are in an n-gram of an example."""


def file_overlaps(pool: Pool) -> list[FileOverlap]:
    """Count the documents of a corpus that overlap with each evaluation file."""
    counts: dict[str, dict[str, int]] = {}
    for record in pool.verdicts.named("overlaps-"):
        for file, own in record.facts["overlaps"].items():
            known = counts.setdefault(file, {**own, "documents": 0})
            known["documents"] += own["documents"]
    return [FileOverlap(file=file, **own) for file, own in counts.items()]


def largest_overlaps(pool: Pool, count: int) -> list[tuple[Unit, int, DocumentOverlap]]:
    """Find the documents of a corpus with the largest overlaps.

    Returns:
        Unit, row in it, and overlap: of each file at most ``count``, largest first.
    """
    found: dict[int, list[tuple[float, int, int, int]]] = {}
    for number, record in enumerate(pool.verdicts.named("overlaps-")):
        for own in read_parquet(pool.verdicts.verified(record)).to_pylist():
            places = found.setdefault(own["file"], [])
            places.append((-own["share"], number, own["row"], own["example"]))
        found = {file: heapq.nsmallest(count, places) for file, places in found.items()}
    groups, files = pool.verdicts.named("reasons-"), _overlap_files(pool)
    return [
        (*_place(pool, groups[number], row), DocumentOverlap(files[file], example + 1, -share))
        for file, places in sorted(found.items())
        for share, number, row, example in places
    ]


def _overlap_files(pool: Pool) -> list[str]:
    return [own["file"] for own in pool.verdicts.manifest["config"]["overlaps"]]


def document_overlaps(pool: Pool, unit: Unit, row: int) -> list[DocumentOverlap]:
    """Read the overlaps of one document; arguments as :func:`failed_rules`."""
    assert unit.kept is not None
    number = pool.verdicts.named("reasons-").index(unit.kept.record)
    files = _overlap_files(pool)
    found = []
    for record in pool.verdicts.named(f"overlaps-{number:05d}"):
        table = read_parquet(pool.verdicts.verified(record))
        own = table.filter(pc.equal(table.column("row"), unit.kept.start + row))
        found += [
            DocumentOverlap(files[one["file"]], one["example"] + 1, one["share"])
            for one in own.to_pylist()
        ]
    return found


def failed_rules(pool: Pool, unit: Unit, row: int) -> Failed:
    """Read why a document of a corpus's unit is dropped, and all rules that it fails.

    Args:
        pool: The pool.
        unit: A unit of the pool.
        row: Row of the document in the corpus's unit.
    """
    names = pool.verdicts.facts["reasons"]
    assert unit.kept is not None
    code = int(unit.kept.reasons(unit.of)[row])
    rules: list[str] = []
    number = pool.verdicts.named("reasons-").index(unit.kept.record)
    for record in pool.verdicts.named(f"verdicts-{number:05d}"):
        table = read_parquet(pool.verdicts.verified(record)).slice(unit.kept.start + row, 1)
        for one in table.column_names:
            bits = table.column(one)[0].as_py()
            named = enumerate(pool.verdicts.facts["rules"][one])
            failed = [rule for bit, rule in named if bits >> bit & 1]
            rules += [rule if rule == one else f"{one}: {rule}" for rule in failed]
    return Failed(names[code - 1] if code else None, tuple(rules))


def repeated_by(pool: Pool, unit: Unit, row: int) -> tuple[Unit, int] | None:
    """Return the unit and row of the document that stays, of one dropped as its duplicate."""
    assert unit.kept is not None
    files = pool.verdicts.named("reasons-")
    reasons = read_batch(pool.verdicts.verified(unit.kept.record))
    own = reasons.slice(unit.kept.start + row, 1).to_pylist()[0]
    if own["of_group"] is None:
        return None
    return _place(pool, files[own["of_group"]], own["of_row"])


def _place(pool: Pool, group: FileRecord, at: int) -> tuple[Unit, int]:
    """Return the unit and the row in it of a row of a group of units."""
    for unit in pool.units:
        if unit.kept is not None and unit.kept.record is group:
            row = at - unit.kept.start
            if 0 <= row < unit.of:
                return unit, row
    raise LookupError(f"{group.path}:{at}")
