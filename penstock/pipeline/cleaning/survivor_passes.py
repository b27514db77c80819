"""Which document stays, for all units: a shuffle by component, and one back to units.

Only documents that some other is like travel. A task reads a range of components whole, so its
memory grows with the largest component: about 200 bytes a document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Draft, FileRecord
from penstock.pipeline.cleaning.components import number_documents
from penstock.pipeline.cleaning.near_duplicates import RANGE_BYTES, RUN
from penstock.pipeline.cleaning.survivors import (
    STAYS,
    Bridged,
    Members,
    choose_survivors,
    count_bridged,
)
from penstock.pipeline.grouped import packed
from penstock.pipeline.runner import Runner
from penstock.pipeline.shuffle import Shuffle, range_of_number, ranges_for
from penstock.storage import AnyPath, atomic_file

__all__ = ["MemberSource", "fill_survivors", "read_survivors"]

_FOUND = np.dtype([("document", "<i8"), ("stays", "<i8"), ("kept", "?")])


def _member(keys: int) -> np.dtype:
    """Return the record type of a document of a component."""
    return np.dtype(
        [
            ("component", "<i8"),
            ("document", "<i8"),
            ("kept", "?"),
            ("best", "<f8"),
            ("ties", "<u8", (2,)),
            ("keys", "<u8", (keys,)),
        ]
    )


class MemberSource(Protocol):
    """A unit, and how to read what the choice depends on: the item of a task."""

    @property
    def unit(self) -> int:
        """Position of the unit in the corpus."""

    @property
    def name(self) -> str: ...

    @property
    def documents(self) -> int: ...

    def read(self) -> Members:
        """Read a row for each document of the unit."""


@dataclass(frozen=True, slots=True)
class _SourceRun:
    """Units that one task reads."""

    number: int
    sources: Sequence[MemberSource]

    @property
    def label(self) -> str:
        return f"{self.sources[0].name} to {self.sources[-1].name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The state that all tasks share."""

    directory: AnyPath
    batches: int
    units: int
    ranges: int
    keys: int

    @property
    def members(self) -> Shuffle:
        """Documents of components, from units to ranges of components."""
        return self._shuffle("members", _member(self.keys), self.ranges, self.batches)

    @property
    def found(self) -> Shuffle:
        """Documents that do not stay, from ranges to units."""
        return self._shuffle("found", _FOUND, self.units, self.ranges)

    def _shuffle(self, name: str, dtype: np.dtype, groups: int, sources: int) -> Shuffle:
        return Shuffle(
            directory=self.directory, name=name, dtype=dtype, groups=groups, sources=sources
        )


def fill_survivors(
    draft: Draft, sources: Sequence[MemberSource], members: int, keys: int, runner: Runner
) -> tuple[list[FileRecord], Bridged]:
    """Write for each document which one stays in its place, a file for each unit.

    Args:
        draft: The artefact; its parts are named by unit.
        sources: All units, in the order of the corpus; small and picklable.
        members: Documents of components, in all units; it sizes the tasks.
        keys: Keys of a document, to count bridged components; 0 to leave that out.
        runner: Runs the tasks.

    Returns:
        The records, in the order of units, with the facts ``documents`` and ``repeats``: the number
        of documents that the other verdicts keep and that do not stay. And the bridged components.
    """
    batches = [
        _SourceRun(*batch) for batch in enumerate(packed(sources, lambda one: one.documents, RUN))
    ]
    ranges = ranges_for(members, _member(keys), RANGE_BYTES)
    choice = _Choice(
        directory=draft.path,
        batches=len(batches),
        units=1 + max((one.unit for one in sources), default=0),
        ranges=ranges,
        keys=keys,
    )
    draft.fill(
        runner.run, _send_members, {f"members-{item.number:05d}": item for item in batches}, choice
    )
    found = draft.fill(
        runner.run,
        _choose_range,
        {f"found-{number:05d}": number for number in range(ranges)},
        choice,
    )
    records = draft.fill(runner.run, _gather_found, {one.name: one for one in sources}, choice)
    bridged = Bridged(
        sum(record.facts["bridged"] for record in found),
        sum(record.facts["bridged_documents"] for record in found),
    )
    return records, bridged


def read_survivors(directory: AnyPath, record: FileRecord) -> np.ndarray:
    """Read which document stays in place of each of a unit, after comparing the checksum.

    Returns:
        (n,) int64: its number, or :data:`~penstock.pipeline.cleaning.survivors.STAYS`.
    """
    table = pq.read_table(record.verified(directory), columns=["stays"])
    return table.column("stays").to_numpy()


def _send_members(batch: _SourceRun, choice: _Choice) -> FileRecord:
    """Write the documents of components by range of the component."""
    kind = choice.members.dtype
    parts = [np.empty(0, kind)]
    for source in batch.sources:
        members = source.read()
        inside = np.flatnonzero(members.components >= 0)
        rows = np.empty(len(inside), kind)
        rows["component"] = members.components[inside]
        rows["document"] = number_documents(source.unit, inside)
        rows["kept"], rows["best"] = members.kept[inside], members.best[inside]
        rows["ties"] = members.ties[inside]
        if choice.keys:
            assert members.keys is not None
            rows["keys"] = members.keys[inside]
        parts.append(rows)
    rows = np.concatenate(parts)
    ranges = range_of_number(rows["component"], choice.ranges)
    return choice.members.write(batch.number, rows, ranges)


def _choose_range(number: int, choice: _Choice) -> FileRecord:
    """Choose among the documents of a range of components."""
    rows = choice.members.read(number)
    members = Members(
        components=rows["component"],
        kept=rows["kept"],
        best=rows["best"],
        ties=rows["ties"],
        keys=rows["keys"],
    )
    stays = choose_survivors(members, rows["document"])
    repeats = stays != STAYS
    found = np.empty(np.count_nonzero(repeats), _FOUND)
    found["document"], found["stays"] = rows["document"][repeats], stays[repeats]
    found["kept"] = rows["kept"][repeats]
    bridged = count_bridged(members) if choice.keys else Bridged(0, 0)
    facts = {"bridged": bridged.components, "bridged_documents": bridged.documents}
    return choice.found.write(number, found, found["document"] >> 32, **facts)


def _gather_found(source: MemberSource, choice: _Choice) -> FileRecord:
    """Write which document stays in place of each of a unit."""
    rows = choice.found.read(source.unit)
    stays = np.full(source.documents, STAYS, np.int64)
    stays[rows["document"] & 0xFFFFFFFF] = rows["stays"]
    name = f"{source.name}.parquet"
    kind = pa.schema([pa.field("stays", pa.int64(), nullable=False)])
    with atomic_file(choice.directory / name) as sink:
        pq.write_table(
            pa.table([pa.array(stays)], kind), sink, compression="zstd", write_statistics=False
        )
    repeats = int(np.count_nonzero(rows["kept"]))
    return FileRecord.of(name, sink, documents=source.documents, repeats=repeats)
