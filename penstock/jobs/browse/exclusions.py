"""First reasons under another condition or other thresholds, from columns alone.

The order of accounting is that of :func:`penstock.pipeline.cleaning.judging.judge`: empty texts,
each set of rules, functions, the condition, overlaps, duplicates. A part that a change leaves alone
keeps the bits that the verdicts have; the condition is computed anew, and of a set with another
threshold all rules. Near-duplicates are left to ``curate``: which of them stays is a shuffle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from penstock.artefact import Workspace
from penstock.columnar import read_parquet
from penstock.errors import UnmadeError
from penstock.jobs.browse.columns import DocumentColumns
from penstock.personal_data import PersonalData
from penstock.pipeline.cleaning.judging import FirstReasons, UnitGroup, named_columns
from penstock.pipeline.cleaning.settings import CleanSettings, StatisticsColumn
from penstock.pipeline.cleaning.text_columns import ColumnFiles, find_text_columns
from penstock.pipeline.pool import Pool
from penstock.rules import Expression, Rule, RuleSet
from penstock.rules.expressions.computing import compute
from penstock.rules.expressions.expression import Planned
from penstock.rules.expressions.meta import MetaField, meta_columns
from penstock.rules.languages import Languages
from penstock.rules.rule import is_unspaced
from penstock.text_hashes import EMPTY, hash_words

__all__ = ["CleanColumns", "FirstOfEqual"]

_META = "meta"

_HELD_RULES = 8
"""Rules whose values are held: 8 bytes a document each."""

_READ = (StatisticsColumn.name, Languages.name, PersonalData.name)


@dataclass(frozen=True, slots=True)
class FirstOfEqual:
    """The documents whose normalised text occurs more than once."""

    rows: np.ndarray
    """(m,) int64, ascending."""
    group: np.ndarray
    """(m,) int64: equal for equal texts, from 0."""

    @classmethod
    def of(cls, hashes: np.ndarray) -> FirstOfEqual:
        """Find them by (n, 2) uint64 hashes of normalised texts."""
        order = np.argsort(hashes[:, 0], kind="stable")
        high = hashes[order, 0]
        same = high[1:] == high[:-1]
        often = np.zeros(len(order), bool)
        often[1:] |= same
        often[:-1] |= same
        rows = np.sort(order[often])
        _, group, counts = np.unique(hashes[rows], axis=0, return_inverse=True, return_counts=True)
        group = group.reshape(-1)
        some = counts[group] > 1
        return cls(rows[some], group[some])

    def repeats(self, excluded: np.ndarray) -> np.ndarray:
        """Return the rows that repeat the first that is not excluded: (k,) int64 of (n,) bool."""
        free = ~excluded[self.rows]
        rows, group = self.rows[free], self.group[free]
        first = np.full(int(self.group.max(initial=-1)) + 1, -1, np.int64)
        first[group[::-1]] = rows[::-1]
        repeats: np.ndarray = rows[first[group] != rows]
        return repeats


@dataclass(slots=True, kw_only=True)
class CleanColumns:
    """The inputs of cleaning for the n documents of a corpus, and its verdicts as bits.

    Documents that were dropped before a rewriter are not among them: a change of cleaning is not
    previewed where there is one.
    """

    settings: CleanSettings
    """By which the verdicts were made."""
    pool: Pool
    empty: np.ndarray
    """(n,) bool."""
    bits: Mapping[str, np.ndarray]
    """(n,) uint64 of each set of rules, and of each function."""
    overlapping: np.ndarray | None
    """(n,) bool: a copy of an evaluation example is in it; None where overlaps drop nothing."""
    equal: FirstOfEqual | None
    """None without exact deduplication."""
    _columns: dict[str, pa.Array] = field(default_factory=dict)
    """The columns that conditions and rules have named so far: (n,) each."""
    _fields: dict[MetaField, pa.Array] = field(default_factory=dict)
    _values: dict[Rule, np.ndarray] = field(default_factory=dict)
    _abstains: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def read(cls, settings: CleanSettings, columns: DocumentColumns) -> CleanColumns:
        """Read the verdicts of a pool.

        Raises:
            ArtefactError: A file is missing or was changed.
        """
        pool = columns.pool
        normal = np.empty((columns.judged, 2), np.uint64)
        for unit, start in zip(pool.units, columns.starts.tolist()):
            rows = replace(unit, kept=None).read_rows(["normal"])
            normal[start : start + unit.of] = hash_words(rows.column("normal"))
        judged = [
            read_parquet(pool.verdicts.verified(record))
            for record in pool.verdicts.named("verdicts-")
        ]
        overlapping = None
        if settings.overlaps and settings.drop_overlaps:
            overlapping = np.zeros(columns.judged, bool)
            start = 0
            groups = zip(pool.verdicts.named("reasons-"), pool.verdicts.named("overlaps-"))
            for reasons, record in groups:
                table = read_parquet(pool.verdicts.verified(record), ["row"])
                overlapping[start + table.column("row").to_numpy()] = True
                start += sum(
                    unit.of
                    for unit in pool.units
                    if unit.kept is not None and unit.kept.record is reasons
                )
        names = judged[0].column_names if judged else []
        return cls(
            settings=settings,
            pool=pool,
            empty=(normal == EMPTY).all(axis=1),
            bits={
                name: np.concatenate([table.column(name).to_numpy() for table in judged])
                for name in names
            },
            overlapping=overlapping,
            equal=FirstOfEqual.of(normal) if settings.exact else None,
        )

    def reasons(self, settings: CleanSettings) -> np.ndarray:
        """Find the first reason of each document under settings of other conditions or thresholds.

        Args:
            settings: As :attr:`settings`, with another :attr:`~CleanSettings.where`, or sets of
                the same rules with other thresholds.

        Returns:
            (n,) uint16: 0, or 1 and the position in ``settings.reasons``.

        Raises:
            BadInput: The condition is wrong.
            UnmadeError: A column that is named is not made.
        """
        assert settings.near is None
        found = FirstReasons(len(self.empty))
        found.add(self.empty)
        for one, before in zip(settings.rules, self.settings.rules, strict=True):
            same = one.identity() == before.identity()
            bits = self.bits[one.name] if same else self._judge(one, before)
            found.add_first(bits, len(one.rules))
        for own in settings.functions:
            found.add_first(self.bits[own.rule], 1)
        if settings.where is not None:
            holds = self.holds(settings.where)
            unknown = holds.is_null().to_numpy(zero_copy_only=False)
            found.add(~holds.fill_null(True).to_numpy(zero_copy_only=False))
            found.add(unknown)
        if self.overlapping is not None:
            found.add(self.overlapping)
        if self.equal is not None:
            found.codes[self.equal.repeats(found.codes != 0)] = len(settings.reasons)
        return found.codes

    def holds(self, where: Expression) -> pa.BooleanArray:
        """Compute a condition for all documents: (n,) bool, null where it is unknown.

        Raises:
            BadInput: A column is unknown, or a value is of another kind.
            UnmadeError: A column that it names is not made.
        """
        planned = where.planned(self.settings.columns())
        columns = {name: self.column(name) for name in where.names if name != _META}
        fields = self._meta(planned)
        if not columns:
            columns = {"": pa.nulls(len(self.empty))}
        batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
        answer: pa.BooleanArray = compute(planned.root, batch, fields)
        return answer

    def column(self, name: str) -> pa.Array:
        """Return a column of all documents by its name in conditions: (n,).

        Raises:
            UnmadeError: It is not made.
        """
        if name not in self._columns:
            found = self._read([name])
            if name not in found.column_names:
                raise UnmadeError(
                    f"the column {name} of this recipe: not made yet",
                    key="clean.where",
                    fix="name it in clean.where and run `penstock curate RECIPE`",
                )
            self._columns[name] = _joined(found.column(name))
        return self._columns[name]

    def numbers(self, where: Expression) -> dict[str, np.ndarray]:
        """Return the columns and fields of numbers that a condition names: (n,) float64, NaN where
        unknown.

        Raises:
            UnmadeError: A column is not made.
        """
        planned = where.planned(self.settings.columns())
        found = {
            ".".join((_META, *own.path)): values for own, values in self._meta(planned).items()
        }
        found |= {name: self.column(name) for name in where.names if name != _META}
        return {
            name: values.cast(pa.float64()).to_numpy(zero_copy_only=False)
            for name, values in found.items()
            if pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
        }

    def forget(self) -> None:
        """Give back the memory of values that a threshold alone needs; they are read again."""
        self._columns.clear()
        self._values.clear()

    def value(self, rule: Rule) -> np.ndarray:
        """Return the number that a rule compares with its threshold: (n,) float64.

        Raises:
            UnmadeError: The statistics are not made.
        """
        if rule not in self._values:
            if len(self._values) >= _HELD_RULES:
                self._values.clear()
            self._values[rule] = rule.value(_StatisticsOf(self))
        return self._values[rule]

    def _judge(self, rules: RuleSet, before: RuleSet) -> np.ndarray:
        """Return the bits of a set of rules, of which those with other thresholds are computed."""
        if rules.counting() != before.counting():
            raise UnmadeError(
                "other statistics than those of this recipe: not made yet",
                key=f"clean.rules.{rules.name}",
                fix="run `penstock curate RECIPE` with the change",
            )
        bits = self.bits[rules.name].copy()
        for number, rule in enumerate(rules.rules):
            threshold = rules.threshold_of(rule)
            if threshold == before.threshold_of(rule):
                continue
            bits &= ~np.uint64(1 << number)
            if threshold is None:
                continue
            fails = rule.beyond(self.value(rule), threshold)
            if rule.by_words:
                fails &= ~self._unspaced
            bits |= fails.astype(np.uint64) << np.uint64(number)
        return bits

    @property
    def _unspaced(self) -> np.ndarray:
        if not self._abstains:
            self._abstains.append(is_unspaced(_StatisticsOf(self)))
        return self._abstains[0]

    def _meta(self, planned: Planned) -> dict[MetaField, pa.Array]:
        """Return the fields of ``meta`` that a condition uses; each is parsed once."""
        missing = [own for own in planned.fields if own not in self._fields]
        if missing:
            parts = [
                meta_columns(_joined(named_columns(group, [_META], {}).column(_META)), missing)
                for group in self._each
            ]
            for at, own in enumerate(missing):
                self._fields[own] = pa.concat_arrays([part.column(at) for part in parts])
        return {own: self._fields[own] for own in planned.fields}

    def _read(self, names: list[str]) -> pa.Table:
        return named_columns(self._group, names, self.settings.columns())

    @property
    def _found(self) -> Mapping[str, ColumnFiles]:
        wanted = [own for own in self.settings.text_columns() if own.name in _READ]
        workspace = Workspace(self.pool.corpus.path.parent.parent, read_only=True)
        return find_text_columns(wanted, self.pool.corpus, workspace)

    @property
    def _each(self) -> list[UnitGroup]:
        """The units of the corpus, one by one, with their text columns."""
        found = self._found
        return [
            UnitGroup(
                unit.number,
                (replace(unit, kept=None),),
                {name: [own[unit.name]] for name, own in found.items()},
            )
            for unit in self.pool.units
        ]

    @property
    def _group(self) -> UnitGroup:
        """All units of the corpus."""
        units = tuple(replace(unit, kept=None) for unit in self.pool.units)
        files = {name: [own[unit.name] for unit in units] for name, own in self._found.items()}
        return UnitGroup(0, units, files)


class _StatisticsOf(dict[str, np.ndarray]):
    """Counts of all documents by name, (n,) uint32, read when they are first used."""

    def __init__(self, columns: CleanColumns) -> None:
        super().__init__()
        self._columns = columns

    def __missing__(self, name: str) -> np.ndarray:
        values: np.ndarray = self._columns.column(name).to_numpy()
        self[name] = values
        return values


def _joined(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
