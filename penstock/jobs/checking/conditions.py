"""What the rules and the condition of a recipe find in a sample of its documents.

Duplicates and copies of evaluation examples are properties of the whole pool, so they are not
looked for. Functions of the user's are not called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import PenstockError, did_you_mean
from penstock.jobs.checking.findings import Finding, error_of, near_names
from penstock.jobs.checking.sampling import FieldTypes, InputSample
from penstock.pipeline.cleaning.best_column import BestColumn
from penstock.pipeline.cleaning.settings import CleanSettings, StatisticsColumn
from penstock.rules import Expression, Verdicts

__all__ = ["Judged", "judge_sample"]

MOST_DOCUMENTS = 2000
MOST_BYTES = 4 * 2**20
"""Documents and bytes of text of the sample that are judged."""

_SHOWN = 5
"""Values of a column that are listed, the most frequent first."""

_LONGEST = 40
"""Characters of a value that are shown."""


@dataclass(slots=True, kw_only=True)
class Judged:
    """Verdicts on a sample."""

    documents: int = 0
    """Documents that were judged."""
    kept: int = 0
    """Documents that no rule and no condition excludes."""
    bytes: int = 0
    """UTF-8 bytes of the texts of those that were judged."""
    kept_share: float = 1.0
    """About the share of the text of all files that is kept; 1 without a sample."""
    dropped_by: dict[str, int] = field(default_factory=dict)
    """Documents that each rule excludes, alone or with others; rules that exclude none are left
    out."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Values of the columns that the condition names; see :func:`_describe`."""
    findings: list[Finding] = field(default_factory=list)
    sizes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    """(n,) int64, UTF-8 bytes of each text."""
    failing: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    """(n,) bool for each rule, named as in :attr:`dropped_by`: the documents that fail it."""

    def strictest(self, least: float) -> tuple[dict[str, float], float]:
        """Choose rules to switch off, the strictest first, until the others keep enough text.

        Args:
            least: The share of the text that is to be kept.

        Returns:
            The share of the text that each of them drops, by its name; and the share that the
            others keep.
        """
        left = dict(self.failing)
        off: dict[str, float] = {}
        while True:
            kept = self._share(~np.any([*left.values(), np.zeros(len(self.sizes), bool)], axis=0))
            if kept >= least or not left:
                return off, kept
            worst = max(left, key=lambda name: (self._share(left[name]), name))
            off[worst] = self._share(left.pop(worst))

    def _share(self, rows: np.ndarray) -> float:
        return int(self.sizes[rows].sum()) / self.bytes if self.bytes else 1.0


def judge_sample(settings: CleanSettings, sample: InputSample) -> Judged:
    """Apply the sets of rules and the condition to the beginning of a sample.

    Args:
        settings: Settings of cleaning.
        sample: Documents of the inputs.
    """
    documents = _evenly(sample.documents)
    judged = Judged(documents=len(documents))
    judged.findings += _missing_fields(settings, sample.fields(), sample.whole)
    if not len(documents):
        return judged
    texts = documents["text"].combine_chunks()
    sizes = pc.binary_length(texts).to_numpy()
    judged.bytes, judged.sizes = int(sizes.sum()), sizes.astype(np.int64)
    columns = _columns(settings, documents, texts, judged)
    fails = np.zeros(len(documents), bool)
    statistics = columns.get(StatisticsColumn.name)
    if statistics is not None:
        for one in settings.rules:
            _add_rules(judged, one.name, verdicts := one.judge(statistics))
            fails |= verdicts.bits != 0
    if settings.where is not None and _can_evaluate(settings.where, columns, settings):
        fails |= _apply(settings, settings.where, documents, columns, judged)
    judged.kept = int(np.count_nonzero(~fails))
    judged.kept_share = sample.share_of_text(~fails, sizes, documents["file"].to_numpy())
    if not judged.kept and judged.documents:
        judged.findings.append(
            Finding(
                level="warning",
                kind="nothing_kept",
                key="clean",
                text="clean: the rules and the condition exclude every document of the sample; "
                "`penstock clean` shows the documents nearest to each threshold",
            )
        )
    return judged


def _evenly(documents: pa.Table) -> pa.Table:
    """Choose documents evenly over a sample, within the bounds."""
    if not len(documents):
        return documents
    mean = max(1, (pc.sum(pc.binary_length(documents["text"])).as_py() or 0) // len(documents))
    count = max(1, min(len(documents), MOST_DOCUMENTS, MOST_BYTES // mean))
    rows = np.linspace(0, len(documents) - 1, count).round().astype(np.int64)
    return documents.take(pa.array(np.unique(rows)))


def _columns(
    settings: CleanSettings, documents: pa.Table, texts: pa.Array, judged: Judged
) -> dict[str, pa.RecordBatch]:
    """Compute the text columns that rules and the condition read, but for users' functions."""
    skipped = {own.name for own in settings.functions} | {own.name for own in settings.overlaps}
    if settings.near is not None:
        skipped.add(settings.near.signatures.name)
    found: dict[str, pa.RecordBatch] = {}
    for column in settings.text_columns():
        if column.name not in skipped:
            try:
                found[column.name] = column.compute(texts)
            except PenstockError as error:
                judged.findings.append(error_of(error))
    return found


def _add_rules(judged: Judged, name: str, verdicts: Verdicts) -> None:
    for bit, rule in enumerate(verdicts.rules):
        fails = (verdicts.bits >> np.uint64(bit) & np.uint64(1)).astype(bool)
        if count := int(np.count_nonzero(fails)):
            judged.dropped_by[f"{name}: {rule}"] = count
            judged.failing[f"{name}: {rule}"] = fails


def _can_evaluate(
    where: Expression, columns: Mapping[str, pa.RecordBatch], settings: CleanSettings
) -> bool:
    """Return whether all columns that a condition names were computed."""
    there = {"id", "source", "bytes", "meta"}
    there.update(name for batch in columns.values() for name in batch.schema.names)
    return there.issuperset(where.names)


def _apply(
    settings: CleanSettings,
    where: Expression,
    documents: pa.Table,
    columns: Mapping[str, pa.RecordBatch],
    judged: Judged,
) -> np.ndarray:
    """Apply the condition; returns which documents it excludes, (n,) bool."""
    types = settings.columns()
    own: dict[str, Any] = {
        "id": documents["id"],
        "source": pc.fill_null(documents["source"], "unknown"),
        "bytes": pc.binary_length(documents["text"]).cast(types["bytes"]),
        "meta": documents["meta"],
    }
    for batch in columns.values():
        own |= {
            name: batch.column(name).cast(types[name])
            for name in batch.schema.names
            if name in types
        }
    table = pa.table({name: own[name] for name in where.names}).combine_chunks()
    planned = where.planned(types)
    for batch in table.to_batches():
        for name, values in planned.values(batch).items():
            judged.values[name] = _describe(values)
    holds = planned.evaluate(table)
    unknown = holds.is_null().to_numpy(zero_copy_only=False)
    fails = ~holds.fill_null(True).to_numpy(zero_copy_only=False)
    for reason, mask in (("where", fails), ("where: unknown", unknown)):
        if count := int(np.count_nonzero(mask)):
            judged.dropped_by[reason] = count
    if unknown.all():
        judged.findings.append(
            Finding(
                level="warning",
                kind="always_unknown",
                key=where.key,
                text=f"{where.key}: unknown for every document of the sample, so that all are "
                "dropped: a value is missing or of another kind; compare numbers of CSV as "
                "number(meta.NAME)",
            )
        )
    return np.asarray(fails | unknown)


def _describe(values: pa.Array) -> dict[str, Any]:
    """Describe the values of a column: ``documents`` with one, and extremes or frequent ones."""
    there = values.drop_null()
    found: dict[str, Any] = {"documents": len(there), "missing": len(values) - len(there)}
    kind = there.type
    if not len(there):
        return found
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_date(kind):
        ordered = there.sort().to_pylist()
        middle = ordered[len(ordered) // 2]
        low, high = ordered[0], ordered[-1]
        plain = [one if isinstance(one, (int, float)) else str(one) for one in (low, middle, high)]
        return found | dict(zip(("least", "median", "greatest"), plain))
    counts = Counter(str(one)[:_LONGEST] for one in there.to_pylist())
    ordered_counts = sorted(counts.items(), key=lambda own: (-own[1], own[0]))
    return found | {"distinct": len(counts), "most": dict(ordered_counts[:_SHOWN])}


def _missing_fields(settings: CleanSettings, fields: FieldTypes, whole: bool) -> list[Finding]:
    """Find fields of ``meta`` that the recipe names and no record of the sample has.

    It is an error where another field has nearly the name; else the field may only be rare.
    """
    named: list[tuple[str, Expression]] = []
    if settings.where is not None:
        named.append((settings.where.key, settings.where))
    if settings.near is not None and isinstance(settings.near.keep, BestColumn):
        named.append((settings.near.keep.column.key, settings.near.keep.column))
    found = []
    for key, expression in named:
        for one in expression.planned(settings.columns()).fields:
            name = one.path[0]
            if name in fields or not fields:
                continue
            known = sorted(fields)
            near = near_names(name, known)
            found.append(
                Finding(
                    level="error" if near else "warning",
                    kind="missing_field",
                    key=key,
                    text=f"{key}: no record {'' if whole else 'of the sample '}has the field "
                    f"{name!r}{did_you_mean(name, known[:30])}",
                    names=near,
                )
            )
    return found
