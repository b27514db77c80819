"""Clean: a dry run of the rules, what each excludes and the documents nearest to its threshold."""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from penstock.artefact import Workspace
from penstock.display import html_table, numbered, text_table
from penstock.jobs.plan import Plan
from penstock.jobs.report.excerpts import excerpt
from penstock.pipeline.cleaning.fates import (
    DocumentOverlap,
    FileOverlap,
    file_overlaps,
    largest_overlaps,
)
from penstock.pipeline.cleaning.settings import StatisticsColumn
from penstock.pipeline.cleaning.text_columns import ColumnFile, make_text_columns
from penstock.pipeline.cleaning.verdicts import make_pool
from penstock.pipeline.corpus import make_corpus
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, iter_documents
from penstock.recipe import Recipe
from penstock.rules import RuleSet

__all__ = ["Cleaned", "NearDocument", "OverlapReport", "RuleReport", "clean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDocument:
    """A document whose value is near a rule's threshold."""

    id: str
    value: float
    fails: bool
    """Whether the rule excludes it."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleReport:
    """Counts of the documents that one rule excludes."""

    rule: str
    """``set: rule``, or the key of a rule of the user's own."""
    limit: str
    """``least`` or ``most``: what a document may have; empty for a rule of the user's own."""
    threshold: float | None
    """None for a rule of the user's own."""
    alone: int
    """Documents that fail it."""
    first: int
    """Documents for which it is the first reason."""
    only: int
    """Documents that fail no other rule of any set."""
    nearest: tuple[NearDocument, ...]
    """The documents that pass and fail it most narrowly, by value, of those that it applies to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapReport:
    """The documents that hold copies of an evaluation file's examples."""

    overlap: FileOverlap
    largest: tuple[tuple[str, DocumentOverlap], ...]
    """Ids, and the overlap: the documents with the largest share, largest first."""

    def summary(self) -> dict[str, Any]:
        """Return the object of the file in ``penstock clean --json``."""
        largest = [
            {"id": name, "share": own.share, "example": own.example} for name, own in self.largest
        ]
        return {**asdict(self.overlap), "largest": largest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """The result of a dry run."""

    recipe: Recipe
    pool: Pool
    rules: tuple[RuleReport, ...]
    abstained: dict[str, int]
    """For each set, the documents to which its rules for words were not applied: their script has
    no spaces."""
    overlaps: tuple[OverlapReport, ...]
    """For each evaluation file, the documents that hold copies of its examples."""
    seconds: dict[str, float]

    def __repr__(self) -> str:
        counts = self.pool.documents
        lines = (f"  {rule.rule}: {rule.alone:,} alone, {rule.only:,} only" for rule in self.rules)
        return text_table(f"Cleaned: {counts['kept']:,} of {counts['read']:,} kept", lines)

    def _repr_html_(self) -> str:
        names = ("rule", "limit", "threshold", "alone", "first", "only")
        rows = ([asdict(rule)[name] for name in names] for rule in self.rules)
        return html_table("Cleaned", names, rows)

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock clean --json`` prints."""
        return {
            "verdicts": str(self.pool.verdicts.path),
            "documents": dict(self.pool.documents),
            "rules": [asdict(rule) for rule in self.rules],
            "abstained": self.abstained,
            "overlaps": [own.summary() for own in self.overlaps],
            "seconds": {name: round(spent, 3) for name, spent in self.seconds.items()},
        }


def clean(
    plan: Plan,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
    examples: int = 2,
) -> Cleaned:
    """Judge the documents of a recipe's input files, before any rewriter, and make nothing else.

    Args:
        plan: Plan of the recipe.
        runner: Runs the tasks of the stages.
        progress: Called with a line for each event.
        examples: Documents on either side of each threshold.

    Raises:
        InputError: An input cannot be used.
    """
    with Workspace.driving(plan.work) as workspace:
        start = time.perf_counter()
        progress("corpus ...")
        corpus = make_corpus(plan.corpus, workspace, runner, progress)
        read = time.perf_counter()
        progress("clean ...")
        pool = make_pool(plan.clean, corpus, workspace, runner, progress)
        judged = time.perf_counter()
        counts = pool.documents
        progress(f"{counts['kept']:,} of {numbered(counts['read'], 'document')} kept")
        found: list[RuleReport] = []
        if plan.clean.rules:
            progress("nearest documents ...")
        # Also where the verdicts are there: `why` reads the values, and they may be deleted.
        columns = make_text_columns(plan.clean.text_columns(), corpus, workspace, runner)
        if plan.clean.rules:
            statistics = columns[StatisticsColumn.name]
            files = [statistics[unit.name] for unit in pool.units]
            nearest = _find_nearest(pool, files, plan.clean.rules, examples, runner)
            found = list(_reports(pool, plan.clean.rules, nearest))
        found += _own_reports(pool, [own.rule for own in plan.clean.functions])
        overlaps = tuple(_overlaps(pool, examples))
    abstained: Counter[str] = Counter()
    for facts in _sets(pool):
        abstained.update({name: own["abstained"] for name, own in facts.items()})
    return Cleaned(
        recipe=plan.recipe,
        pool=pool,
        rules=tuple(found),
        abstained={name: count for name, count in abstained.items() if count},
        overlaps=overlaps,
        seconds={
            "corpus": read - start,
            "verdicts": judged - read,
            "nearest": time.perf_counter() - judged,
        },
    )


def _overlaps(pool: Pool, count: int) -> Iterator[OverlapReport]:
    largest = largest_overlaps(pool, count)
    for overlap in file_overlaps(pool):
        of_file = ((unit.id_at(row), own) for unit, row, own in largest if own.file == overlap.file)
        yield OverlapReport(overlap=overlap, largest=tuple(of_file))


def _sets(pool: Pool) -> Iterator[dict[str, Any]]:
    """Yield, for each group of units, the counts of each set."""
    for record in pool.verdicts.named("verdicts-"):
        yield record.facts["sets"]


class _NearRow(NamedTuple):
    """A document that is near a threshold; of equal distances the first in the corpus is less."""

    distance: float
    unit: int
    row: int
    value: float


_Near = dict[tuple[str, str, bool], list[_NearRow]]
"""By set, rule, and whether the rule excludes them."""


def _find_nearest(
    pool: Pool, files: Sequence[ColumnFile], rules: Sequence[RuleSet], count: int, runner: Runner
) -> dict[tuple[str, str], list[NearDocument]]:
    best: _Near = {}
    items = list(zip(pool.units, files, strict=True)) if count else []
    for _, found in runner.run(_nearest_of_unit, items, (rules, count)):
        for key, places in found.items():
            best[key] = heapq.nsmallest(count, [*best.get(key, []), *places])
    documents: dict[tuple[str, str], list[NearDocument]] = {}
    texts = _read_texts(pool, {(place.unit, place.row) for own in best.values() for place in own})
    for (name, rule, fails), places in sorted(best.items()):
        for place in places:
            name_of, text = texts[place.unit, place.row]
            documents.setdefault((name, rule), []).append(
                NearDocument(id=name_of, value=place.value, fails=fails, text=excerpt(text))
            )
    return documents


def _nearest_of_unit(item: tuple[Unit, ColumnFile], state: tuple[Sequence[RuleSet], int]) -> _Near:
    unit, file = item
    rules, count = state
    statistics = file.read()
    found: _Near = {}
    for one in rules:
        verdicts = one.judge(statistics)
        values = one.values(statistics)
        for bit, rule in enumerate(one.rules):
            if rule.name not in values:
                continue
            value = values[rule.name]
            distance = np.abs(value - one.threshold_of(rule))
            fails = (verdicts.bits >> np.uint64(bit) & np.uint64(1)).astype(bool)
            judged = ~(verdicts.abstained & rule.by_words)
            for side in (True, False):
                rows = np.flatnonzero((fails == side) & judged)
                order = np.argsort(distance[rows], kind="stable")[:count]
                found[one.name, rule.name, side] = [
                    _NearRow(float(distance[row]), unit.number, int(row), float(value[row]))
                    for row in rows[order].tolist()
                ]
    return found


def _read_texts(pool: Pool, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, str]]:
    """Read id and text of documents by unit and row of the corpus."""
    found = {}
    for number in sorted({unit for unit, _ in wanted}):
        whole = replace(pool.units[number], kept=None)
        rows = {row for unit, row in wanted if unit == number}
        start = 0
        for batch in iter_documents(whole, ["id", "text"]):
            for row in [row for row in rows if start <= row < start + len(batch)]:
                own = batch.slice(row - start, 1).to_pylist()[0]
                found[number, row] = own["id"], own["text"]
            start += len(batch)
    return found


def _reports(
    pool: Pool,
    rules: Sequence[RuleSet],
    nearest: dict[tuple[str, str], list[NearDocument]],
) -> Iterator[RuleReport]:
    counts = _counts(pool)
    for one in rules:
        for rule in one.rules:
            if (threshold := one.threshold_of(rule)) is None:
                continue
            name = f"{one.name}: {rule.name}"
            yield RuleReport(
                rule=name,
                limit=rule.limit,
                threshold=threshold,
                alone=counts[one.name, rule.name, "alone"],
                first=pool.documents["dropped_by"].get(name, 0),
                only=counts[one.name, rule.name, "only"],
                nearest=tuple(
                    sorted(nearest.get((one.name, rule.name), []), key=lambda near: near.value)
                ),
            )


def _own_reports(pool: Pool, names: Sequence[str]) -> Iterator[RuleReport]:
    """Yield the counts of the user's own rules, which have no threshold."""
    counts = _counts(pool)
    for name in names:
        yield RuleReport(
            rule=name,
            limit="",
            threshold=None,
            alone=counts[name, name, "alone"],
            first=pool.documents["dropped_by"].get(name, 0),
            only=counts[name, name, "only"],
            nearest=(),
        )


def _counts(pool: Pool) -> Counter[tuple[str, str, str]]:
    """Add up the counts of all groups, by set, rule and kind of count."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for facts in _sets(pool):
        for name, own in facts.items():
            for rule, tally in own["rules"].items():
                counts.update({(name, rule, key): count for key, count in tally.items()})
    return counts
