"""Columns to cut: which documents fill the budget, to the token.

What stands above the cutoff of its group (:mod:`penstock.pipeline.cutting.search`) is taken whole,
and the document on it is shortened, so that the cut is whole sequences, for each share. The driver
holds numbers for each unit and group, and no document.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import BudgetError
from penstock.pipeline.accounting import check_sum
from penstock.pipeline.cutting.budget import Quota, quotas_of
from penstock.pipeline.cutting.candidates import Taken
from penstock.pipeline.cutting.ordering import OrderedUnit, batches, make_orders
from penstock.pipeline.cutting.radix import Cutoff, Order, score_of
from penstock.pipeline.cutting.ranks import Ranks, make_ranks
from penstock.pipeline.cutting.search import Found, Search
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import TokenStore
from penstock.pipeline.units import Unit
from penstock.recipe import Budget, Recipe
from penstock.storage import AnyPath, atomic_file, remove_tree

__all__ = ["CutSettings", "make_cut", "write_units"]

STAGE = "cut"
VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSettings:
    """All that the cut stage needs of a recipe."""

    budget: Budget
    seed: int
    """Of random ranks, ties and noise."""
    sequence_length: int
    """Tokens of a sequence: a cut is a whole number of them."""

    @classmethod
    def of(cls, recipe: Recipe) -> CutSettings:
        """Take the budget and what it is counted in."""
        return cls(
            budget=recipe.budget,
            seed=recipe.draw_seed,
            sequence_length=recipe.shards.sequence_length,
        )

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint."""
        return {
            "budget": self.budget.model_dump(mode="json", exclude={"seed"}),
            "seed": self.seed,
            "sequence_length": self.sequence_length,
        }


def make_cut(
    settings: CutSettings,
    corpus: Artefact,
    columns: Mapping[str, Artefact],
    tokens: TokenStore,
    tokenizer: Artefact,
    workspace: Workspace,
    runner: Runner,
) -> Artefact:
    """Find the cut that a budget asks for, or make it.

    Raises:
        BudgetError: The pool, or a share of it, holds fewer tokens than asked for, or none.
    """
    budget, length = settings.budget, settings.sequence_length
    inputs = {
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "columns": {name: column.fingerprint for name, column in sorted(columns.items())},
    }

    def work(draft: Draft) -> Artefact:
        _refuse_unscored(columns)
        quotas = quotas_of(budget, length, corpus.facts["by_source"])
        # Of this attempt alone: one that lost the work directory removes no other's.
        scratch = draft.path / f"scratch-{uuid.uuid4().hex[:12]}"
        try:
            orders = make_orders(
                corpus,
                columns,
                budget,
                settings.seed,
                [quota.name for quota in quotas if quota.name is not None],
                scratch,
                runner,
            )
            search = Search(orders, quotas, length, tokens, runner, scratch)
            found = search.cutoffs(budget.allow_short)
            names = [ordered.unit.name for ordered in orders]
            done = {name for name in names if draft.done(name) is not None}
            for ordered, record in write_units(orders, found, scratch, draft.path, runner, done):
                draft.record(ordered.unit.name, [record])
            facts = _facts(draft, names, quotas, found.cutoffs, budget.tokens)
            pool = sum(ordered.unit.documents for ordered in orders)
            check_sum(
                f"{draft.path}",
                ("documents kept in the corpus", corpus.facts["documents"]["kept"]),
                {"taken": facts["documents"], "left": pool - facts["documents"]},
            )
            return draft.publish(names, facts)
        finally:
            remove_tree(scratch)

    return workspace.make(STAGE, VERSION, settings.config(), inputs, work)


def _refuse_unscored(columns: Mapping[str, Artefact]) -> None:
    for name, column in columns.items():
        if column.facts["excluded"] == column.facts["documents"]:
            raise BudgetError(
                f"budget.rank: {name} excludes all {column.facts['documents']:,} documents of the "
                f"pool (every score is NaN or infinite); mend select.{name}, or rank by another "
                "column"
            )


# -- choosing ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Choice:
    """A unit, and what it may take of the documents on the cutoffs."""

    ordered: OrderedUnit
    allowed: Sequence[int]
    """Tokens, for each group."""

    @property
    def label(self) -> str:
        return self.ordered.label

    def taken(self, found: Found) -> Taken:
        return found.candidates.read(self.ordered.unit).take(found.cutoffs, self.allowed)


def _allowances(
    orders: Sequence[OrderedUnit], found: Found, runner: Runner
) -> Iterator[Sequence[int]]:
    """For each unit, the tokens that each group may take there of documents on its cutoff.

    Where score and hash are equal to the last bit, the earlier document of the corpus goes first.
    """
    left = [cutoff.quota - cutoff.above for cutoff in found.cutoffs]
    if all(cutoff.inside <= 1 for cutoff in found.cutoffs):
        yield from itertools.repeat(left, len(orders))
        return
    tied = dict(runner.run(_tied_tokens, orders, found))
    for number in range(len(orders)):
        yield left
        left = [max(0, have - use) for have, use in zip(left, tied[number])]


def _tied_tokens(ordered: OrderedUnit, found: Found) -> list[int]:
    prefixes = [cutoff.prefix for cutoff in found.cutoffs]
    return found.candidates.read(ordered.unit).on_cutoff(prefixes)


def _order_of(found: Found, choice: _Choice) -> Order:
    return choice.taken(found).order


# -- writing ----------------------------------------------------------------------------------


def write_units(
    orders: Sequence[OrderedUnit],
    found: Found,
    scratch: AnyPath,
    directory: AnyPath,
    runner: Runner,
    done: Collection[str] = (),
    carried: Sequence[str] = ("id", "source"),
) -> Iterator[tuple[OrderedUnit, FileRecord]]:
    """Rank what is taken and write it, unit by unit, in the order of completion.

    Args:
        orders: All units.
        found: The cutoffs, and the candidates in ``scratch``.
        scratch: Readable and writable for every worker.
        directory: Where the files of the cut go.
        runner: Who does it.
        done: Names of units whose files are there from an earlier attempt.
        carried: Columns of the corpus that are repeated in the cut.
    """
    choices = [_Choice(*both) for both in zip(orders, _allowances(orders, found, runner))]
    left = iter(choices)
    runs = [list(itertools.islice(left, len(batch))) for batch in batches(orders, runner.slots)]
    ranks = make_ranks(runs, partial(_order_of, found), scratch, runner)
    jobs = [job for job in zip(choices, ranks) if job[0].ordered.unit.name not in done]
    for index, record in runner.run(_write_unit, jobs, _Writing(found, directory, carried)):
        yield jobs[index][0].ordered, record


@dataclass(frozen=True, slots=True)
class _Writing:
    found: Found
    directory: AnyPath
    carried: Sequence[str]


def _write_unit(job: tuple[_Choice, Ranks], shared: _Writing) -> FileRecord:
    choice, ranks = job
    unit = choice.ordered.unit
    taken = choice.taken(shared.found)
    scores = score_of(taken.order.key)
    count = len(taken.row)
    columns = {
        "unit": np.full(count, unit.number, dtype=np.int32),
        "row": taken.row,
        **_carried(unit, taken.row, shared.carried),
        "score": scores,
        "rank": ranks.read(),
        "weight": np.ones(count, dtype=np.float32),
        "tokens": taken.tokens,
        "group": taken.order.group,
    }
    table = pa.table(columns)
    name = f"{unit.name}.parquet"
    with atomic_file(shared.directory / name) as sink:
        pq.write_table(
            table,
            sink,
            compression="zstd",
            use_dictionary=["unit", "source", "weight", "group"],
            write_statistics=False,
        )
    tokens = np.zeros(max(1, int(taken.order.group.max(initial=0)) + 1), dtype=np.int64)
    np.add.at(tokens, taken.order.group, taken.tokens)
    return FileRecord.of(
        name,
        sink,
        documents=count,
        tokens=tokens.tolist(),
        lowest=float(scores.min()) if count else None,
        sources=_by_source(table) if "source" in shared.carried else {},
    )


def _carried(unit: Unit, rows: np.ndarray, columns: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    if not columns:
        return {}
    with pq.ParquetFile(unit.path()) as file:
        table = file.read(list(columns)).take(pa.array(rows))
    return {name: table.column(name) for name in columns}


def _by_source(table: pa.Table) -> dict[str, dict[str, int]]:
    sums = table.group_by("source").aggregate([("tokens", "sum"), ("tokens", "count")])
    return {
        row["source"]: {"documents": row["tokens_count"], "tokens": row["tokens_sum"]}
        for row in sorted(sums.to_pylist(), key=lambda row: str(row["source"]))
    }


def _facts(
    draft: Draft,
    names: Sequence[str],
    quotas: Sequence[Quota],
    cutoffs: Sequence[Cutoff],
    requested: int,
) -> dict[str, Any]:
    records = [record for name in names for record in draft.done(name) or ()]
    by_source: dict[str, dict[str, int]] = {}
    for record in records:
        for source, counts in record.facts["sources"].items():
            total = by_source.setdefault(source, {"documents": 0, "tokens": 0})
            total["documents"] += counts["documents"]
            total["tokens"] += counts["tokens"]
    delivered = [min(cutoff.quota, cutoff.total) for cutoff in cutoffs]
    check_sum(
        f"{draft.path}",
        ("tokens delivered", sum(delivered)),
        {source: total["tokens"] for source, total in by_source.items()},
    )
    lowest = [record.facts["lowest"] for record in records if record.facts["documents"]]
    return {
        "requested": requested,
        "delivered": sum(delivered),
        "documents": sum(record.facts["documents"] for record in records),
        "groups": [
            {"source": quota.name, "tokens": tokens} for quota, tokens in zip(quotas, delivered)
        ],
        "by_source": dict(sorted(by_source.items())),
        "lowest_score": min(lowest, default=None),
    }
