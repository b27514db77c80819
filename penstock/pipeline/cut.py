"""Columns to cut: which documents fill the budget, to the token.

What stands above the cutoff of its group (:mod:`penstock.pipeline.search`) is taken whole, and the
document on it is shortened, so that the cut is whole sequences, for each share.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, atomic_file
from penstock.errors import BudgetError
from penstock.pipeline.budget import Quota, quotas_of
from penstock.pipeline.ordering import OrderedUnit, make_orders
from penstock.pipeline.radix import Cutoff
from penstock.pipeline.runner import Runner
from penstock.pipeline.search import Search
from penstock.pipeline.tokens import TokenStore
from penstock.recipe import Recipe

__all__ = ["make_cut"]

STAGE = "cut"
VERSION = 1


def make_cut(
    recipe: Recipe,
    corpus: Artefact,
    columns: Mapping[str, Artefact],
    tokens: TokenStore,
    tokenizer: Artefact,
    workspace: Workspace,
    runner: Runner,
) -> Artefact:
    """The cut that a recipe's budget asks for, found or made.

    Raises:
        BudgetError: The pool, or a share of it, holds fewer tokens than asked for, or none.
    """
    length = recipe.shards.sequence_length
    config = {
        "budget": recipe.budget.model_dump(mode="json", exclude={"seed"}),
        "seed": recipe.draw_seed,
        "sequence_length": length,
    }
    inputs = {
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "columns": {name: column.fingerprint for name, column in sorted(columns.items())},
    }

    def work(draft: Draft) -> Artefact:
        _refuse_unscored(columns)
        quotas = quotas_of(recipe.budget, length, corpus.facts["by_source"])
        scratch = draft.path / "scratch"
        try:
            orders = make_orders(
                corpus,
                columns,
                recipe.budget,
                recipe.draw_seed,
                [quota.name for quota in quotas if quota.name is not None],
                scratch,
                runner,
            )
            search = Search(orders, quotas, length, tokens, runner)
            cutoffs = search.cutoffs(recipe.budget.allow_short)
            names = _write(draft, orders, cutoffs, runner)
            return draft.publish(names, _facts(draft, names, quotas, cutoffs, recipe))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    return workspace.make(STAGE, VERSION, config, inputs, work)


def _refuse_unscored(columns: Mapping[str, Artefact]) -> None:
    for name, column in columns.items():
        if column.facts["excluded"] == column.facts["documents"]:
            raise BudgetError(
                f"budget.rank: {name} excludes all {column.facts['documents']:,} documents of the "
                f"pool (every score is NaN or infinite); mend select.{name}, or rank by another "
                "column"
            )


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is taken of a unit: k documents, by row."""

    row: np.ndarray
    tokens: np.ndarray
    group: np.ndarray
    key: np.ndarray
    tie: np.ndarray


def _tied_tokens(ordered: OrderedUnit, cutoffs: Sequence[Cutoff]) -> list[int]:
    """Tokens of the unit's documents in each group's crossing bin."""
    order, _ = ordered.read()
    sizes = ordered.sizes()
    return [
        int(sizes[(order.group == group) & order.against(cutoff.prefix)[1]].sum())
        for group, cutoff in enumerate(cutoffs)
    ]


def _choose(item: tuple[OrderedUnit, Sequence[int]], cutoffs: Sequence[Cutoff]) -> _Chosen:
    """Take what stands above the cutoffs whole, and ``allowed`` tokens of what stands on them."""
    ordered, allowed = item
    order, _ = ordered.read()
    sizes = ordered.sizes()
    taken = np.zeros_like(sizes)
    for group, cutoff in enumerate(cutoffs):
        above, inside = order.against(cutoff.prefix)
        mine = order.group == group
        if cutoff.everything:
            taken[mine] = sizes[mine]
            continue
        taken[mine & above] = sizes[mine & above]
        tied = np.flatnonzero(mine & inside)
        before = np.cumsum(sizes[tied]) - sizes[tied]
        taken[tied] = np.clip(allowed[group] - before, 0, sizes[tied])
    row = np.flatnonzero(taken)
    return _Chosen(row, taken[row], order.group[row], order.key[row], order.tie[row])


# -- writing ----------------------------------------------------------------------------------


def _allowances(
    orders: Sequence[OrderedUnit], cutoffs: Sequence[Cutoff], runner: Runner
) -> list[list[int]]:
    """For each unit and group, the tokens it may take of documents on the cutoff.

    Where score and hash are equal to the last bit, the earlier document of the corpus goes first.
    """
    left = [cutoff.quota - cutoff.above for cutoff in cutoffs]
    if all(cutoff.inside <= 1 for cutoff in cutoffs):
        return [left for _ in orders]
    tied = dict(runner.run(_tied_tokens, orders, cutoffs))
    allowances = []
    for number in range(len(orders)):
        allowances.append(list(left))
        left = [max(0, have - use) for have, use in zip(left, tied[number])]
    return allowances


def _write(
    draft: Draft, orders: Sequence[OrderedUnit], cutoffs: Sequence[Cutoff], runner: Runner
) -> list[str]:
    """Choose, rank and record, unit by unit; the names of the parts."""
    items = list(zip(orders, _allowances(orders, cutoffs, runner)))
    chosen = dict(runner.run(_choose, items, cutoffs))
    parts = [chosen[number] for number in range(len(items))]
    key = np.concatenate([part.key for part in parts])
    tie = np.concatenate([part.tie for part in parts])
    # Stable, descending: equal documents keep the corpus's order.
    order = np.lexsort((~tie, ~key))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    ends = np.cumsum([len(part.row) for part in parts])
    jobs = [
        (ordered, part, rank[end - len(part.row) : end])
        for ordered, part, end in zip(orders, parts, ends)
    ]
    for index, record in runner.run(_write_unit, jobs, draft.path):
        draft.record(orders[index].unit.name, [record])
    return [ordered.unit.name for ordered in orders]


def _write_unit(job: tuple[OrderedUnit, _Chosen, np.ndarray], directory: Path) -> FileRecord:
    ordered, chosen, rank = job
    with pq.ParquetFile(ordered.unit.path()) as file:
        documents = file.read(["id", "source"]).take(pa.array(chosen.row))
    scores = ordered.scores()[chosen.row]
    table = pa.table(
        {
            "unit": pa.array(np.full(len(chosen.row), ordered.unit.number, dtype=np.int32)),
            "row": chosen.row,
            "id": documents.column("id"),
            "source": documents.column("source"),
            "score": scores,
            "rank": rank,
            "weight": np.ones(len(chosen.row), dtype=np.float32),
            "tokens": chosen.tokens,
            "group": chosen.group,
        }
    )
    name = f"{ordered.unit.name}.parquet"
    with atomic_file(directory / name) as sink:
        pq.write_table(table, sink, compression="zstd", write_statistics=False)
    groups = max(1, int(chosen.group.max(initial=0)) + 1)
    sources = table.group_by("source").aggregate([("tokens", "sum"), ("tokens", "count")])
    return FileRecord.of(
        directory,
        name,
        documents=len(chosen.row),
        tokens=[int(chosen.tokens[chosen.group == group].sum()) for group in range(groups)],
        lowest=float(scores.min()) if len(scores) else None,
        sources={
            row["source"]: {"documents": row["tokens_count"], "tokens": row["tokens_sum"]}
            for row in sorted(sources.to_pylist(), key=lambda row: str(row["source"]))
        },
    )


def _facts(
    draft: Draft,
    names: Sequence[str],
    quotas: Sequence[Quota],
    cutoffs: Sequence[Cutoff],
    recipe: Recipe,
) -> dict[str, Any]:
    records = [record for name in names for record in draft.done(name) or ()]
    by_source: dict[str, dict[str, int]] = {}
    for record in records:
        for source, counts in record.facts["sources"].items():
            total = by_source.setdefault(source, {"documents": 0, "tokens": 0})
            total["documents"] += counts["documents"]
            total["tokens"] += counts["tokens"]
    delivered = [min(cutoff.quota, cutoff.total) for cutoff in cutoffs]
    assert sum(total["tokens"] for total in by_source.values()) == sum(delivered)
    lowest = [record.facts["lowest"] for record in records if record.facts["documents"]]
    return {
        "requested": recipe.budget.tokens,
        "delivered": sum(delivered),
        "documents": sum(record.facts["documents"] for record in records),
        "groups": [
            {"source": quota.name, "tokens": tokens} for quota, tokens in zip(quotas, delivered)
        ],
        "by_source": dict(sorted(by_source.items())),
        "lowest_score": min(lowest, default=None),
    }
