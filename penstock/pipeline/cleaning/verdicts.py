"""Verdicts: for each document of a corpus every rule that excludes it, and the first reason.

Three passes over groups of about a million documents read the files of rows and text columns, and
no text, so that a changed threshold takes seconds:

1. Every rule judges every document, and the 128-bit hashes of normalised texts are written sorted.
2. Each range of hashes finds documents of equal text. The first that no rule excludes stays; a copy
   never loses to one that is excluded itself.
3. Each document gets its first reason, 0 if it is kept.

No task holds more than a group or a range (4 million documents), and the driver holds no document.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import InputError, PenstockError
from penstock.pipeline.cleaning.text_columns import (
    ColumnFile,
    TextColumn,
    make_text_columns,
)
from penstock.pipeline.grouped import packed, read_groups, write_groups
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import ROWS, Unit, units_of
from penstock.recipe import Recipe
from penstock.rules import (
    FIELDS,
    Counting,
    Expression,
    RuleSet,
    Verdicts,
    count_statistics,
    counting_for,
    rule_sets,
)
from penstock.storage import AnyPath, atomic_file
from penstock.text_hashes import hash_normalised, hash_words

__all__ = ["CleanSettings", "Failed", "failed_rules", "make_pool", "repeated_by"]

STAGE = "verdicts"
VERSION = 1

_EMPTY, _DUPLICATE = "empty", "duplicate"
_WHERE = ("where", "where: unknown")
"""The condition does not hold; or a value that it depends on is unknown."""

_LABELS = ("id", "source", "bytes")
"""Columns of the file of rows that conditions may name."""

_N_GRAM = "_gram_"

_GROUP_DOCUMENTS = 1 << 20
"""Documents of a group of units: the item of a task, and a file of verdicts."""

_RANGE_DOCUMENTS = 1 << 22
"""Most documents of a range of hashes, about."""

_BUCKETS = 1024
"""Groups of a file of hashes, by the upper ten bits; a range is one or more of them."""

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4"), ("excluded", "<u1")])
_REPEAT = np.dtype([("row", "<u4"), ("of_group", "<u4"), ("of_row", "<u4")])

_BLANK = hash_words(hash_normalised(pa.array([""])))
"""The hash of a text that is empty when normalised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSettings:
    """Settings of cleaning, from a recipe."""

    rules: tuple[RuleSet, ...] = ()
    where: Expression | None = None
    """A condition over columns; a document for which it does not hold is dropped."""
    exact: bool = True
    """Whether all but one of the documents whose normalised texts are equal are dropped."""

    @classmethod
    def of(cls, recipe: Recipe) -> CleanSettings:
        """Build the sets of rules.

        Raises:
            RecipeError: A set, a parameter or a column is unknown, or a value is wrong.
        """
        clean = recipe.clean
        try:
            rules = rule_sets(clean.rules)
        except PenstockError as error:
            raise error.under("clean.rules") from None
        where = None if clean.where is None else Expression.of(clean.where)
        made = cls(rules=rules, where=where, exact=clean.dedup.exact)
        if where is not None:
            where.planned(made.columns())
        return made

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint."""
        return {
            "rules": [one.identity() for one in self.rules],
            "where": None if self.where is None else self.where.identity(),
            "exact": self.exact,
        }

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons for which a document can be dropped, in the order of accounting."""
        named = (f"{one.name}: {rule.name}" for one in self.rules for rule in one.rules)
        where = () if self.where is None else _WHERE
        return (_EMPTY, *named, *where, _DUPLICATE)

    @property
    def bits(self) -> dict[str, list[str]]:
        """The rule of each bit of each set's verdict."""
        return {one.name: [rule.name for rule in one.rules] for one in self.rules}

    def text_columns(self) -> list[TextColumn]:
        """Return the columns that the rules read."""
        asked = set() if self.where is None else set(self.where.names)
        found: list[TextColumn] = []
        statistics = StatisticsColumn(self._counting())
        if self.rules or asked.intersection(statistics.types()):
            found.append(statistics)
        return found

    def columns(self) -> dict[str, pa.DataType]:
        """Return the columns that :attr:`where` may name, with their types."""
        labels = {name: ROWS.field(name).type for name in _LABELS}
        return {**labels, "meta": pa.large_string(), **StatisticsColumn(self._counting()).types()}

    def _counting(self) -> Counting:
        counting = counting_for(self.rules)
        if self.where is not None and _N_GRAM in " ".join(self.where.names):
            counting = replace(counting, ngrams=True)
        return counting


@dataclass(frozen=True, slots=True)
class StatisticsColumn:
    """The counts that rules compare with their thresholds."""

    counting: Counting
    name = "statistics"
    version = 1

    def types(self) -> dict[str, pa.DataType]:
        """Return each count's type."""
        return dict.fromkeys(FIELDS, pa.uint32())

    def config(self) -> dict[str, Any]:
        """Return what is counted, and how."""
        return self.counting.identity()

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Count; see :func:`~penstock.rules.statistics.count_statistics`."""
        return count_statistics(texts, self.counting)


def make_pool(
    settings: CleanSettings,
    corpus: Artefact,
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
) -> Pool:
    """Find or make the verdicts about a corpus; return the pool that they keep.

    Raises:
        InputError: No document is left.
        ArtefactError: The documents are not all accounted for.
    """
    inputs = {"corpus": corpus.fingerprint}

    def work(draft: Draft) -> Artefact:
        columns = make_text_columns(settings.text_columns(), corpus, workspace, runner, progress)
        units = units_of(corpus)
        groups: list[_UnitGroup] = []
        for own in packed(units, lambda unit: unit.of, _GROUP_DOCUMENTS):
            files = {name: [of[unit.name] for unit in own] for name, of in columns.items()}
            groups.append(_UnitGroup(len(groups), tuple(own), files))
        shared = _Judging(
            settings=settings,
            directory=draft.path,
            groups=len(groups),
            ranges=_ranges_for(sum(unit.of for unit in units)) if settings.exact else 0,
        )
        items = {f"judged-{group.part}": group for group in groups}
        judged = draft.fill(runner.run, _judge, items, shared)
        kept = {record.path: record for record in judged if record.path.startswith("verdicts-")}
        for name, record in kept.items():  # apart from the scratch of the same task
            if draft.done(name) is None:
                draft.record(name, [record])
        ranges = [_Range(number, shared) for number in range(shared.ranges)]
        draft.fill(runner.run, _find_repeats, {one.part: one for one in ranges}, shared)
        parts = {f"settled-{group.part}": group for group in groups}
        draft.fill(runner.run, _settle, parts, shared)
        facts = {"reasons": list(settings.reasons), "rules": settings.bits}
        return draft.publish([*parts, *kept], facts)

    made = workspace.make(STAGE, VERSION, settings.config(), inputs, work)
    pool = Pool.of(corpus, made)
    if not pool.kept:
        raise _nothing_kept(pool.documents)
    return pool


@dataclass(frozen=True, slots=True)
class _UnitGroup:
    """Some units that follow each other: the item of a task."""

    number: int
    units: tuple[Unit, ...]
    columns: Mapping[str, Sequence[ColumnFile]]
    """The files of each text column, by unit."""

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
            known = pq.read_schema(files[0].record.verified(files[0].directory)).names
            names = [name for name in names if name in known]
        return pa.concat_tables([file.read(names) for file in files]).combine_chunks()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judging:
    """The state that every task of the stage shares."""

    settings: CleanSettings
    directory: AnyPath
    groups: int
    ranges: int
    """Ranges of hashes; 0 without exact deduplication."""

    def scratch(self, kind: str, number: int) -> str:
        return f"scratch/{kind}-{number:05d}"


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of hash values over all groups: the item of a task."""

    number: int
    shared: _Judging

    @property
    def part(self) -> str:
        return f"repeats-{self.number:05d}"

    @property
    def label(self) -> str:
        return f"range {self.number + 1} of {self.shared.ranges} of the documents' hashes"


def _ranges_for(documents: int) -> int:
    """Return the number of ranges for so many documents: a power of two."""
    return min(_BUCKETS, 1 << math.ceil(math.log2(max(1, documents / _RANGE_DOCUMENTS))))


# -- judging ----------------------------------------------------------------------------------


def _judge(group: _UnitGroup, shared: _Judging) -> list[FileRecord]:
    """Judge a group's documents one by one: reasons and sorted hashes to scratch, verdicts kept."""
    settings = shared.settings
    rows = pa.concat_tables([unit.read_rows(["normal"]) for unit in group.units])
    hashes = hash_words(rows.column("normal"))
    reasons = _Reasons(len(hashes))
    reasons.add((hashes == _BLANK).all(axis=1))
    records: list[FileRecord] = []
    if settings.rules:
        statistics = group.read(StatisticsColumn.name)
        judged = [one.judge(statistics) for one in settings.rules]
        for verdicts in judged:
            reasons.add_first(verdicts.bits, len(verdicts.rules))
        names = [one.name for one in settings.rules]
        name = f"verdicts-{group.part}.parquet"
        with atomic_file(shared.directory / name) as sink:
            bits = [verdicts.bits for verdicts in judged]
            pq.write_table(pa.table(bits, names=names), sink, compression="zstd")
        records.append(FileRecord.of(name, sink, sets=_tallies(names, judged)))
    if settings.where is not None:
        holds = settings.where.evaluate(_named_columns(group, settings.where.names))
        unknown = holds.is_null().to_numpy(zero_copy_only=False)
        reasons.add(~holds.fill_null(True).to_numpy(zero_copy_only=False))
        reasons.add(unknown)
    scratch = shared.scratch("judged", group.number)
    with atomic_file(shared.directory / scratch) as sink:
        sink.write(reasons.codes.tobytes())
    records.append(FileRecord.of(scratch, sink))
    if settings.exact:
        entries = np.empty(len(hashes), dtype=_ENTRY)
        entries["high"], entries["low"] = hashes[:, 0], hashes[:, 1]
        entries["row"] = np.arange(len(hashes))
        entries["excluded"] = reasons.codes != 0
        entries = entries[np.lexsort((entries["low"], entries["high"]))]
        scratch = shared.scratch("hashes", group.number)
        sink = write_groups(
            shared.directory / scratch, entries, entries["high"] >> np.uint64(54), _BUCKETS
        )
        records.append(FileRecord.of(scratch, sink))
    return records


class _Reasons:
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


def _named_columns(group: _UnitGroup, names: Sequence[str]) -> pa.Table:
    """Read columns of a group's documents: labels, fields of ``meta``, text columns."""
    columns: dict[str, pa.ChunkedArray] = {}
    labels = [name for name in names if name in _LABELS]
    if labels:
        rows = pa.concat_tables([unit.read_rows(labels) for unit in group.units])
        columns |= {name: rows.column(name) for name in labels}
    if "meta" in names:
        parts = [pq.read_table(unit.path(), columns=["meta"]) for unit in group.units]
        columns["meta"] = pa.concat_tables(parts).column("meta")
    for column in group.columns:
        table = group.read(column, names)
        columns |= {name: table.column(name) for name in table.column_names}
    return pa.table(columns).combine_chunks()


def _lowest_bit(bits: np.ndarray) -> np.ndarray:
    """Return the number of the lowest bit that is set: (n,) uint64 to (n,) int64; 0 of none."""
    lowest = bits & (~bits + np.uint64(1))
    return np.log2(np.maximum(lowest, np.uint64(1)).astype(np.float64)).astype(np.int64)


def _find_repeats(item: _Range, shared: _Judging) -> FileRecord:
    """Find the documents of a range that repeat one that stays, sorted by group."""
    first, last = (n * _BUCKETS // shared.ranges for n in (item.number, item.number + 1))
    parts = [
        read_groups(shared.directory / shared.scratch("hashes", group), _ENTRY, first, last)
        for group in range(shared.groups)
    ]
    entries = np.concatenate(parts)
    groups = np.repeat(np.arange(len(parts), dtype="<u4"), [len(part) for part in parts])
    # Stable: of equal hashes those that no rule excludes come first, in the order of the corpus.
    order = np.lexsort((entries["excluded"], entries["low"], entries["high"]))
    entries, groups = entries[order], groups[order]
    fresh = np.ones(len(entries), dtype=bool)
    fresh[1:] = (entries["high"][1:] != entries["high"][:-1]) | (
        entries["low"][1:] != entries["low"][:-1]
    )
    stays = np.flatnonzero(fresh)[np.cumsum(fresh) - 1] if len(entries) else order
    repeats = np.flatnonzero(~fresh & (entries["excluded"] == 0))
    found = np.empty(len(repeats), dtype=_REPEAT)
    found["row"] = entries["row"][repeats]
    found["of_group"], found["of_row"] = groups[stays[repeats]], entries["row"][stays[repeats]]
    by_group = np.argsort(groups[repeats], kind="stable")
    name = shared.scratch("repeats", item.number)
    sink = write_groups(
        shared.directory / name, found[by_group], groups[repeats][by_group], shared.groups
    )
    return FileRecord.of(name, sink)


_REASONS = pa.schema(
    [
        pa.field("reason", pa.uint16(), nullable=False),
        pa.field("of_group", pa.uint32()),
        pa.field("of_row", pa.uint32()),
    ]
)
"""``reason`` is 0, or 1 and the position in the fact ``reasons``; of a duplicate, the document that
stays, by its group of units and its row there."""


def _settle(group: _UnitGroup, shared: _Judging) -> FileRecord:
    """Write the first reason of each document of a group, and the counts of what is kept."""
    names = shared.settings.reasons
    data = (shared.directory / shared.scratch("judged", group.number)).read_bytes()
    reasons = np.frombuffer(data, np.uint16).copy()
    of = np.zeros((2, len(reasons)), dtype=np.uint32)
    for number in range(shared.ranges):
        found = read_groups(
            shared.directory / shared.scratch("repeats", number), _REPEAT, group.number
        )
        reasons[found["row"]] = len(names)
        of[:, found["row"]] = found["of_group"], found["of_row"]
    repeats = pa.array(reasons != len(names))
    columns = [pa.array(reasons), *(pa.array(one, mask=repeats.to_numpy(False)) for one in of)]
    name = f"reasons-{group.part}.arrow"
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, _REASONS) as writer,
    ):
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_REASONS))
    kept = reasons == 0
    counts = np.bincount(reasons, minlength=len(names) + 1)[1:].tolist()
    ends = np.cumsum([unit.of for unit in group.units])
    return FileRecord.of(
        name,
        sink,
        units=[int(own.sum()) for own in np.split(kept, ends[:-1])],
        dropped_by={name: count for name, count in zip(names, counts) if count},
        sources=_by_source(group.units, kept),
        kept=hashlib.sha256(np.packbits(kept).tobytes()).hexdigest(),
    )


def _by_source(units: Sequence[Unit], kept: np.ndarray) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    start = 0
    for unit in units:
        rows = unit.read_rows(["source", "bytes"])
        rows = rows.filter(pa.array(kept[start : start + unit.of]))
        start += unit.of
        sums = rows.group_by("source").aggregate([("bytes", "count"), ("bytes", "sum")])
        for row in sums.to_pylist():
            own = {"documents": row["bytes_count"], "bytes": row["bytes_sum"]}
            counts.setdefault(row["source"], Counter()).update(own)
    return {source: dict(own) for source, own in sorted(counts.items())}


def _nothing_kept(documents: Mapping[str, Any]) -> InputError:
    by_rule = ", ".join(
        f"{count:,} by the rule {rule}" for rule, count in documents["dropped_by"].items()
    )
    return InputError(
        f"no document is left of {documents['read']:,} read: "
        f"{documents['quarantined']:,} quarantined, {documents['dropped']:,} dropped"
        f"{f' ({by_rule})' if by_rule else ''}",
        key="corpus",
        fix="check corpus.text and the files, and the rules under clean",
    )


# -- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failed:
    """What the verdicts say of one document."""

    reason: str | None
    """The first reason; None if it is kept."""
    rules: tuple[str, ...]
    """Every rule of a set that it fails, ``set: rule``."""


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
        table = pq.read_table(pool.verdicts.verified(record)).slice(unit.kept.start + row, 1)
        for one in table.column_names:
            bits = table.column(one)[0].as_py()
            named = enumerate(pool.verdicts.facts["rules"][one])
            rules += [f"{one}: {rule}" for bit, rule in named if bits >> bit & 1]
    return Failed(names[code - 1] if code else None, tuple(rules))


def repeated_by(pool: Pool, unit: Unit, row: int) -> tuple[Unit, int] | None:
    """Return the unit and row of the document that stays, of one dropped as its duplicate."""
    assert unit.kept is not None
    files = pool.verdicts.named("reasons-")
    with pa.memory_map(str(pool.verdicts.verified(unit.kept.record))) as source:
        own = pa.ipc.open_file(source).get_batch(0).slice(unit.kept.start + row, 1).to_pylist()[0]
    if own["of_group"] is None:
        return None
    record, at = files[own["of_group"]], own["of_row"]
    for other in pool.units:
        if other.kept is not None and other.kept.record is record:
            place = at - other.kept.start
            if 0 <= place < other.of:
                return other, place
    raise LookupError(f"{unit.name}:{row}")
