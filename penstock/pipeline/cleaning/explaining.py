"""The values behind one document's verdicts: of each rule, of the condition, of its duplicate.

Verdicts hold bits. The values are read from the text columns that the verdicts were made of, and
the similarity of two documents is computed from their texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from penstock.artefact import Workspace
from penstock.columnar import OwnParquet
from penstock.personal_data import PersonalData
from penstock.pipeline.cleaning.best_column import BestColumn
from penstock.pipeline.cleaning.fates import failed_rules, repeated_by
from penstock.pipeline.cleaning.function_rule import FunctionRule
from penstock.pipeline.cleaning.judging import UnitGroup, named_columns
from penstock.pipeline.cleaning.minhash.signatures import shingle_sets
from penstock.pipeline.cleaning.settings import CleanSettings, StatisticsColumn
from penstock.pipeline.cleaning.text_columns import (
    ColumnFiles,
    TextColumn,
    find_text_columns,
    stage_of,
)
from penstock.pipeline.pool import Pool
from penstock.pipeline.units import Unit
from penstock.rules import RuleSet
from penstock.rules.languages import Languages

__all__ = ["ConditionValues", "Explanations", "Repeated", "RuleValue"]

_READ = (StatisticsColumn.name, Languages.name, PersonalData.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleValue:
    """The value and the threshold that a rule compares, for one document."""

    rule: str
    """``set: rule``, or the name of a function."""
    fails: bool
    applied: bool = True
    """False where the rule counts words and the document's script has no spaces."""
    value: float | None = None
    """None of a function, which returns no value, and where the counts were deleted."""
    limit: str | None = None
    """``least`` or ``most``: what a document may have."""
    threshold: float | None = None
    unit: str = ""
    """The unit of both; empty for a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionValues:
    """The result of ``clean.where`` for one document, and the values in it."""

    condition: str
    holds: bool | None
    """None where it is unknown."""
    values: Mapping[str, Any]
    """The columns and fields of ``meta`` that it names; a date as a text."""
    other_kinds: Mapping[str, Any]
    """The fields of ``meta`` that are unknown because the value is of another kind: by name, the
    kind that is ``expected`` and the value that it ``got``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """The document that stays in place of one that is dropped as its duplicate."""

    id: str
    unit: str
    row: int
    keep: str
    """The rule by which it was chosen: ``first``, ``longest``, or as ``highest meta.stars``."""
    best: float | str | None = None
    """Its value of that rule, a date as ``2020-01-31``; None where the rule has none or it is
    missing. Of ``longest``, the bytes."""
    own: float | str | None = None
    """The value of the document that is dropped."""
    similarity: float | None = None
    """Jaccard similarity of the sets of n-grams of both; None with exact duplicates only."""
    threshold: float | None = None
    ngram: int | None = None
    equal: bool = True
    """Whether the normalised texts are equal."""
    joined: Literal["pair", "path"] | None = None
    """Of near duplicates, whether these two are alike by the signatures (``pair``), or through
    other documents alone (``path``); None where the signatures were deleted."""


class Explanations:
    """Reads the values behind verdicts about the documents of a pool.

    Args:
        settings: Settings of cleaning by which the pool was made; overlaps may be left out.
        pool: The pool. Text columns of its corpus that were deleted give no values
            (:meth:`deleted`).
    """

    def __init__(self, settings: CleanSettings, pool: Pool) -> None:
        self._settings = settings
        self.pool = pool

    def rules(self, unit: Unit, row: int) -> list[RuleValue]:
        """Return what each rule of the recipe says of a document, in the order of the recipe.

        Args:
            unit: A unit of the pool.
            row: Row of the document in the corpus's unit.
        """
        group = self._group(unit)
        found: list[RuleValue] = []
        if StatisticsColumn.name in group.columns:
            counts = group.read(StatisticsColumn.name).slice(row, 1)
            for one in self._settings.rules:
                found += _values_of(one, counts)
        elif self._settings.rules:
            failed = failed_rules(self.pool, unit, row).rules
            for one in self._settings.rules:
                found += _thresholds_of(one, failed)
        for own in self._settings.functions:
            if own.name in group.columns:
                drops = group.read(own.name).column("drops")[row].as_py()
                found.append(RuleValue(rule=own.rule, fails=drops))
        return found

    def deleted(self, unit: Unit) -> list[str]:
        """Return the stages of the text columns that the verdicts read, but that are gone."""
        there = self._group(unit).columns
        return list(
            dict.fromkeys(stage_of(one.name) for one in self._wanted if one.name not in there)
        )

    def condition(self, unit: Unit, row: int) -> ConditionValues | None:
        """Return the values that the condition reads; None without one. Arguments as `rules`."""
        where, types = self._settings.where, self._settings.columns()
        if where is None:
            return None
        table = named_columns(self._group(unit), where.names, types).slice(row, 1)
        if not set(table.column_names).issuperset(where.names):
            return None
        planned = where.planned({one.name: one.type for one in table.schema})
        (batch,) = table.combine_chunks().to_batches()
        values = {name: own[0].as_py() for name, own in planned.values(batch).items()}
        return ConditionValues(
            condition=where.text,
            holds=planned.evaluate(batch)[0].as_py(),
            values={name: _plain(value) for name, value in values.items()},
            other_kinds=planned.other_kinds(batch["meta"][0].as_py()) if planned.fields else {},
        )

    def repeated(self, unit: Unit, row: int) -> Repeated | None:
        """Return the document that stays in place of another; arguments as :meth:`rules`."""
        place = repeated_by(self.pool, unit, row)
        if place is None:
            return None
        its_unit, its_row = place
        found = Repeated(id=its_unit.id_at(its_row), unit=its_unit.name, row=its_row, keep="first")
        near = self._settings.near
        if near is None:
            return found
        texts = [_text_at(*one) for one in ((unit, row), place)]
        one, other = shingle_sets(pa.array(texts, pa.large_string()), near.signatures.ngram)
        common = len(np.intersect1d(one, other, assume_unique=True))
        own, best = (self._rank(*one) for one in ((unit, row), place))
        normal = [_row_of(*one, "normal") for one in ((unit, row), place)]
        similarity = common / max(1, len(one) + len(other) - common)
        return replace(
            found,
            equal=normal[0] == normal[1],
            joined=self._joined((unit, row), place, similarity),
            keep=str(near.keep),
            own=own,
            best=best,
            similarity=similarity,
            threshold=near.signatures.threshold,
            ngram=near.signatures.ngram,
        )

    def _joined(
        self, one: tuple[Unit, int], other: tuple[Unit, int], similarity: float
    ) -> Literal["pair", "path"] | None:
        """Return whether two documents are joined as a pair, by a band that both have."""
        near = self._settings.near
        assert near is not None
        files = find_text_columns([near.signatures], self.pool.corpus, self._workspace)
        column = files.get(near.signatures.name, {})
        if any(unit.name not in column for unit, _ in (one, other)):
            return None
        bands = [
            column[unit.name].read(["bands"]).column("bands")[row].as_py()
            for unit, row in (one, other)
        ]
        agree = any(left == right for left, right in zip(*bands))
        enough = not near.verify or similarity >= near.signatures.threshold
        return "pair" if agree and enough else "path"

    def _rank(self, unit: Unit, row: int) -> float | str | None:
        """Return the value by which a document of a component is chosen."""
        near = self._settings.near
        assert near is not None
        if near.keep == "first":
            return None
        if isinstance(near.keep, BestColumn):
            names, types = near.keep.names, self._settings.columns()
            table = named_columns(self._group(unit), names, types).slice(row, 1)
            if not set(table.column_names).issuperset(names):
                return None
            return near.keep.value(table)
        whole = replace(unit, kept=None)
        return float(whole.read_rows(["bytes"]).column("bytes")[row].as_py())

    def _group(self, unit: Unit) -> UnitGroup:
        """Return a unit with those of its text columns that exist."""
        files = {name: [own[unit.name]] for name, own in self._columns.items() if unit.name in own}
        return UnitGroup(unit.number, (replace(unit, kept=None),), files)

    @cached_property
    def _columns(self) -> Mapping[str, ColumnFiles]:
        return find_text_columns(self._wanted, self.pool.corpus, self._workspace)

    @property
    def _workspace(self) -> Workspace:
        return Workspace(self.pool.corpus.path.parent.parent, read_only=True)

    @cached_property
    def _wanted(self) -> list[TextColumn]:
        return [
            column
            for column in self._settings.text_columns()
            if column.name in _READ or isinstance(column, FunctionRule)
        ]


def _values_of(rules: RuleSet, counts: pa.Table) -> list[RuleValue]:
    """Return the values of a set's rules that are on, for counts of one document."""
    verdicts = rules.judge(counts)
    values = rules.values(counts)
    return [
        RuleValue(
            rule=f"{rules.name}: {rule.name}",
            fails=bool(int(verdicts.bits[0]) >> bit & 1),
            applied=not (rule.by_words and bool(verdicts.abstained[0])),
            value=float(values[rule.name][0]),
            limit=rule.limit,
            threshold=rules.threshold_of(rule),
            unit=rule.unit,
        )
        for bit, rule in enumerate(rules.rules)
        if rule.name in values
    ]


def _thresholds_of(rules: RuleSet, failed: Sequence[str]) -> list[RuleValue]:
    """Return a set's rules that are on, without values, of a document that fails some rules."""
    return [
        RuleValue(
            rule=(name := f"{rules.name}: {rule.name}"),
            fails=name in failed,
            limit=rule.limit,
            threshold=threshold,
            unit=rule.unit,
        )
        for rule in rules.rules
        if (threshold := rules.threshold_of(rule)) is not None
    ]


def _row_of(unit: Unit, row: int, column: str) -> Any:
    """Read a value of the file of rows of the corpus's unit."""
    return replace(unit, kept=None).read_rows([column]).column(column)[row].as_py()


def _text_at(unit: Unit, row: int) -> str:
    """Read the text of a row of the corpus's unit, a row group at a time."""
    with OwnParquet(unit.path()) as file:
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < count:
                texts = file.read_row_group(group, ["text"], use_threads=False).column("text")
                return str(texts[row])
            row -= count
    raise LookupError(unit.name)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: dates as texts."""
    return value if isinstance(value, str | int | float | bool | None) else value.isoformat()
