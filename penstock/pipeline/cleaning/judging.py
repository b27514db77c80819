"""Judge documents one by one: what every rule says of each, and the first that excludes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import FileRecord
from penstock.columnar import OwnParquet, read_parquet
from penstock.personal_data import PersonalData
from penstock.pipeline.cleaning.best_column import BestColumn
from penstock.pipeline.cleaning.choice import Choice
from penstock.pipeline.cleaning.duplicates import COMPONENTS, LABELS_OF_MEMBERS
from penstock.pipeline.cleaning.function_rule import FunctionRule
from penstock.pipeline.cleaning.overlaps.overlaps import EXAMPLES, UNCHECKED, Overlaps
from penstock.pipeline.cleaning.settings import LABELS, CleanSettings, StatisticsColumn
from penstock.pipeline.cleaning.survivors import Members
from penstock.pipeline.cleaning.text_columns import ColumnFile
from penstock.pipeline.grouped import write_groups
from penstock.pipeline.units import Unit
from penstock.rules import Verdicts
from penstock.rules.languages import Languages
from penstock.storage import AnyPath, atomic_file
from penstock.text_hashes import EMPTY, hash_words

__all__ = [
    "BUCKETS",
    "ENTRY",
    "FirstReasons",
    "Judging",
    "UnitGroup",
    "judge",
    "kept_files",
    "named_columns",
]

BUCKETS = 1024
"""Groups of a file of hashes, by the upper ten bits; a range is one or more of them."""

ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("excluded", "<u1")])
"""A document in a file of hashes."""


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """Some units that follow each other: the item of a task."""

    number: int
    units: tuple[Unit, ...]
    columns: Mapping[str, Sequence[ColumnFile]]
    """The files of each text column, by unit."""
    written: tuple[str, ...] = ()
    """The files of :func:`kept_files` that an earlier attempt recorded."""

    @property
    def part(self) -> str:
        return f"{self.number:05d}"

    @property
    def label(self) -> str:
        return f"{self.units[0].name} to {self.units[-1].name}"

    def read(self, column: str, names: Sequence[str] | None = None) -> pa.Table:
        """Read a text column of all documents, or those of its fields that are named."""
        files = self.columns[column]
        if names is not None:
            with OwnParquet(files[0].record.verified(files[0].directory)) as file:
                known = file.schema_arrow.names
            names = [name for name in names if name in known]
        return pa.concat_tables([file.read(names) for file in files]).combine_chunks()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """The state that every task of the stage shares."""

    settings: CleanSettings
    directory: AnyPath
    groups: int
    ranges: int
    """Ranges of hashes; 0 without exact deduplication, or with near-duplicates."""
    choice: Choice | None = None
    """Of near-duplicates."""

    def scratch(self, kind: str, number: int) -> str:
        return f"scratch/{kind}-{number:05d}"


def kept_files(settings: CleanSettings, group: UnitGroup) -> list[str]:
    """Name the files of a group that are kept, apart from the scratch of the same task."""
    verdicts = [f"verdicts-{group.part}.parquet"] if settings.rules or settings.functions else []
    return verdicts + ([f"overlaps-{group.part}.parquet"] if settings.overlaps else [])


def judge(group: UnitGroup, shared: Judging) -> list[FileRecord]:
    """Judge a group's documents one by one: reasons and sorted hashes to scratch, verdicts kept."""
    settings = shared.settings
    rows = pa.concat_tables([unit.read_rows(["normal"]) for unit in group.units])
    hashes = hash_words(rows.column("normal"))
    reasons = FirstReasons(len(hashes))
    reasons.add((hashes == EMPTY).all(axis=1))
    records: list[FileRecord] = []
    names = [*(one.name for one in settings.rules), *(own.rule for own in settings.functions)]
    if names:
        statistics = group.read(StatisticsColumn.name) if settings.rules else None
        judged = [one.judge(statistics) for one in settings.rules]
        judged += [_own_verdicts(own, group) for own in settings.functions]
        for verdicts in judged:
            reasons.add_first(verdicts.bits, len(verdicts.rules))
        name = f"verdicts-{group.part}.parquet"
        if name not in group.written:
            with atomic_file(shared.directory / name) as sink:
                bits = [verdicts.bits for verdicts in judged]
                pq.write_table(pa.table(bits, names=names), sink, compression="zstd")
            records.append(FileRecord.of(name, sink, sets=_tallies(names, judged)))
    if settings.where is not None:
        holds = settings.where.evaluate(
            named_columns(group, settings.where.names, settings.columns())
        )
        unknown = holds.is_null().to_numpy(zero_copy_only=False)
        reasons.add(~holds.fill_null(True).to_numpy(zero_copy_only=False))
        reasons.add(unknown)
    if settings.overlaps:
        overlaps = _Overlapping.read(group, settings.overlaps)
        name = f"overlaps-{group.part}.parquet"
        if name not in group.written:
            records.append(overlaps.write(shared.directory, name))
        if settings.drop_overlaps:
            reasons.add(overlaps.mask(len(hashes)))
    scratch = shared.scratch("judged", group.number)
    with atomic_file(shared.directory / scratch) as sink:
        sink.write(reasons.codes.tobytes())
    records.append(FileRecord.of(scratch, sink))
    if shared.choice is not None:
        records.append(_send_members(group, reasons.codes == 0, shared.choice, settings))
    elif settings.exact:
        entries = np.empty(len(hashes), dtype=ENTRY)
        entries["high"], entries["low"] = hashes[:, 0], hashes[:, 1]
        entries["row"] = np.arange(len(hashes))
        entries["excluded"] = reasons.codes != 0
        entries = entries[np.lexsort((entries["low"], entries["high"]))]
        scratch = shared.scratch("hashes", group.number)
        sink = write_groups(
            shared.directory / scratch, entries, entries["high"] >> np.uint64(54), BUCKETS
        )
        records.append(FileRecord.of(scratch, sink))
    return records


def _own_verdicts(own: FunctionRule, group: UnitGroup) -> Verdicts:
    drops = group.read(own.name).column("drops").to_numpy()
    return Verdicts((own.rule,), drops.astype(np.uint64), np.zeros(len(drops), bool))


@dataclass(frozen=True, slots=True)
class _Overlapping:
    """The documents of a group that overlap with evaluation files."""

    table: pa.Table
    """``row`` of the group, ``file`` by its position in the settings, and the column's values."""
    counts: Mapping[str, Mapping[str, int]]
    """``documents``, ``examples`` and ``unchecked`` examples of each file."""

    @classmethod
    def read(cls, group: UnitGroup, overlaps: Sequence[Overlaps]) -> _Overlapping:
        tables, counts = [], {}
        for number, one in enumerate(overlaps):
            column = group.read(one.name)
            rows = np.flatnonzero(column.column("grams").to_numpy())
            found = {"row": rows.astype(np.uint32), "file": np.full(len(rows), number, np.uint16)}
            own = column.take(pa.array(rows)).replace_schema_metadata(None)
            for name, values in reversed(found.items()):
                own = own.add_column(0, name, pa.array(values))
            tables.append(own)
            known = column.schema.metadata
            counts[one.file] = {
                "documents": len(rows),
                "examples": int(known[EXAMPLES]),
                "unchecked": int(known[UNCHECKED]),
            }
        return cls(pa.concat_tables(tables).sort_by([("row", "ascending")]), counts)

    def mask(self, count: int) -> np.ndarray:
        """Return which documents overlap with any file: (count,) bool."""
        fails = np.zeros(count, bool)
        fails[self.table.column("row").to_numpy()] = True
        return fails

    def write(self, directory: AnyPath, name: str) -> FileRecord:
        with atomic_file(directory / name) as sink:
            pq.write_table(self.table, sink, compression="zstd")
        return FileRecord.of(name, sink, overlaps=self.counts)


def _send_members(
    group: UnitGroup, kept: np.ndarray, choice: Choice, settings: CleanSettings
) -> FileRecord:
    """Write the documents that others are like, for the choice of those that stay.

    The fact ``valued`` counts the documents of the group with a value of ``keep``'s column.
    """
    near = settings.near
    assert near is not None
    numbers: list[np.ndarray] = []
    members: list[Members] = []
    start = 0
    ranks, facts = None, {}
    if isinstance(near.keep, BestColumn):
        ranks = near.keep.ranks(named_columns(group, near.keep.names, settings.columns()))
        facts["valued"] = int(np.count_nonzero(~np.isnan(ranks)))
    files = zip(group.columns[COMPONENTS], group.columns[near.signatures.name], strict=True)
    for unit, (components, signatures) in zip(group.units, files, strict=True):
        own, found = near.members(
            unit.read_rows(LABELS_OF_MEMBERS),
            components.read().column("component").to_numpy(),
            signatures.read(["bands"]).column("bands").combine_chunks(),
            kept[start : start + unit.of],
            None if ranks is None else ranks[start : start + unit.of],
        )
        numbers.append(own + start)
        members.append(found)
        start += unit.of
    return choice.send(group.number, np.concatenate(numbers), Members.joined(members), **facts)


class FirstReasons:
    """The first reason of each document, as reasons are added in the order of accounting."""

    def __init__(self, count: int) -> None:
        self.codes = np.zeros(count, np.uint16)
        """(count,): 0, or 1 and the position of the reason."""
        self._next = 1

    def add(self, fails: np.ndarray) -> None:
        """Add a reason: (count,) bool."""
        self.codes[fails & (self.codes == 0)] = self._next
        self._next += 1

    def add_first(self, bits: np.ndarray, rules: int) -> None:
        """Add a set of rules: (count,) uint64, of which the lowest bit is the first rule."""
        fails = (bits != 0) & (self.codes == 0)
        self.codes[fails] = self._next + _lowest_bit(bits[fails])
        self._next += rules


def _tallies(names: Sequence[str], judged: Sequence[Verdicts]) -> dict[str, Any]:
    """Count for each rule what it excludes, and what no other rule of any set does."""
    failed = sum((verdicts.bits != 0).astype(np.int64) for verdicts in judged)
    found = {}
    for name, verdicts in zip(names, judged, strict=True):
        alone = verdicts.bits[failed == 1]
        found[name] = {
            "abstained": int(verdicts.abstained.sum()),
            "rules": {
                rule: {
                    "alone": int((verdicts.bits >> np.uint64(bit) & np.uint64(1)).sum()),
                    "only": int((alone == np.uint64(1 << bit)).sum()),
                }
                for bit, rule in enumerate(verdicts.rules)
            },
        }
    return found


def named_columns(
    group: UnitGroup, names: Sequence[str], types: Mapping[str, pa.DataType]
) -> pa.Table:
    """Read columns of a group's documents: labels, fields of ``meta``, text columns."""
    columns: dict[str, pa.ChunkedArray] = {}
    labels = [name for name in names if name in LABELS]
    if labels:
        rows = pa.concat_tables([unit.read_rows(labels) for unit in group.units])
        columns |= {name: rows.column(name) for name in labels}
    if "meta" in names:
        parts = [read_parquet(unit.path(), ["meta"]) for unit in group.units]
        columns["meta"] = pa.concat_tables(parts).column("meta")
    for column in (StatisticsColumn.name, Languages.name, PersonalData.name):
        if column in group.columns:
            table = group.read(column, names)
            columns |= {name: table.column(name).cast(types[name]) for name in table.column_names}
    return pa.table(columns).combine_chunks()


def _lowest_bit(bits: np.ndarray) -> np.ndarray:
    """Return the number of the lowest bit that is set: (n,) uint64 to (n,) int64; 0 of none."""
    lowest = bits & (~bits + np.uint64(1))
    return np.log2(np.maximum(lowest, np.uint64(1)).astype(np.float64)).astype(np.int64)
