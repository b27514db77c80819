"""The cut stage: columns to the documents that fill the budget, exactly.

Documents above the cutoff of their group (:mod:`penstock.pipeline.cutting.search`) are taken whole,
and the document on it is shortened, so that each share of the cut is whole sequences. The driver
holds numbers for each unit and group, and no document. Ranks are not stored; they are computed by
:mod:`penstock.pipeline.cutting.ranks`.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import BudgetError
from penstock.pipeline.checking import check_sum, largest_sources, sum_by_source
from penstock.pipeline.cutting.best import find_best
from penstock.pipeline.cutting.budget import Quota, check_shares, quotas_of
from penstock.pipeline.cutting.ordering import OrderedUnit, make_orders
from penstock.pipeline.cutting.radix import Cutoff, score_of
from penstock.pipeline.cutting.search import (
    Found,
    refuse_hopeless,
    search_budget,
    write_candidates,
)
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import TokenStore
from penstock.pipeline.units import Unit
from penstock.recipe import Budget, Recipe
from penstock.storage import (
    AnyPath,
    atomic_file,
    delete,
)

__all__ = ["CutSettings", "check_budget", "make_cut", "write_units"]

STAGE = "cut"
VERSION = 4

_BYTES_PER_TOKEN = 4.0
"""Bytes of text of a token, about, where there is no tokenizer yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSettings:
    """Settings of the cut stage, from a recipe."""

    budget: Budget
    seed: int
    """Seed of random ranks, ties and noise."""
    sequence_length: int
    """Tokens of a sequence: a cut is a whole number of them."""

    @classmethod
    def of(cls, recipe: Recipe) -> CutSettings:
        return cls(
            budget=recipe.budget,
            seed=recipe.draw_seed,
            sequence_length=recipe.shards.sequence_length,
        )

    def resolve(self, pool: Pool, tokenizer: Artefact) -> CutSettings:
        """Return the settings with the number of tokens that a share of the pool is.

        It follows from the pool and the tokenizer, which are inputs of the cut. So a share and the
        number that it resolves to name the same cut.
        """
        budget = self.budget.resolve(pool.bytes, tokenizer.facts["bytes_per_token"])
        return replace(self, budget=budget)

    def config(self) -> dict[str, Any]:
        """Return the stage's part of the fingerprint, of settings with a number of tokens."""
        return {
            "budget": self.budget.model_dump(mode="json", exclude={"seed"}),
            "seed": self.seed,
            "sequence_length": self.sequence_length,
        }


def check_budget(
    settings: CutSettings, pool: Pool, added: Sequence[str], quotas: bool = True
) -> None:
    """Check the shares of a budget against the pool, before anything is scored.

    Args:
        settings: Settings of the cut.
        pool: The pool.
        added: Sources that rewriters will add.
        quotas: Whether the text of the pool is the last one, so that a share is refused that its
            source cannot hold at one token a byte.

    Raises:
        RecipeError: A share names a source that the pool does not have.
        BudgetError: A source holds fewer tokens than its share.
    """
    check_shares(settings.budget, [*pool.by_source, *added])
    if quotas and settings.budget.named_shares and not settings.budget.allow_short:
        budget = settings.budget.resolve(pool.bytes, _BYTES_PER_TOKEN)
        assert budget.count is not None
        if budget.count >= settings.sequence_length:
            own = quotas_of(budget, settings.sequence_length, pool.by_source)
            refuse_hopeless(own, settings.sequence_length, _BYTES_PER_TOKEN)


def make_cut(
    settings: CutSettings,
    pool: Pool,
    columns: Mapping[str, Artefact],
    tokens: TokenStore,
    tokenizer: Artefact,
    workspace: Workspace,
    runner: Runner,
) -> Artefact:
    """Find the cut of a budget, or make it.

    Raises:
        BudgetError: The pool, or a share of it, holds fewer tokens than the budget, or none.
    """
    settings = settings.resolve(pool, tokenizer)
    budget, length = settings.budget, settings.sequence_length
    assert budget.count is not None
    requested = budget.count
    inputs = {
        "pool": pool.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "columns": {name: column.fingerprint for name, column in sorted(columns.items())},
    }

    def work(draft: Draft) -> Artefact:
        _refuse_unscored(columns)
        quotas = quotas_of(budget, length, pool.by_source)
        # Scratch of this attempt only: one that lost the work directory removes no other's.
        scratch = draft.path / f"scratch-{uuid.uuid4().hex[:12]}"
        try:
            orders = make_orders(
                pool,
                columns,
                budget,
                settings.seed,
                [quota.name for quota in quotas if quota.name is not None],
                scratch,
                runner,
            )
            drawn_from: Sequence[dict[str, Any]] = ()
            if budget.uniform is not None:
                best = find_best(orders, budget.uniform, quotas, scratch / "best", runner)
                orders, quotas, drawn_from = best.orders, best.quotas, best.facts
            try:
                found = search_budget(
                    orders,
                    quotas,
                    length=length,
                    bytes_per_token=tokens.bytes_per_token,
                    write=partial(write_candidates, store=tokens),
                    runner=runner,
                    directory=orders[0].directory if orders else scratch,
                    allow_short=budget.allow_short,
                )
            except BudgetError as error:
                if not drawn_from:
                    raise
                raise BudgetError(
                    f"{error.problem}, all of them among the best by budget.draw.uniform",
                    key=error.key,
                    fix=f"widen budget.draw.uniform; or {error.fix}",
                ) from None
            facts = _facts(
                draft,
                write_units(orders, found, draft, runner),
                quotas,
                found.cutoffs,
                requested,
            )
            ordered = sum(ordered.unit.documents for ordered in orders)
            if drawn_from:
                facts["drawn_from"] = drawn_from
            check_sum(
                f"{draft.path}",
                ("documents of the pool", pool.kept),
                {"taken": facts["documents"], "left": ordered - facts["documents"]},
            )
            return draft.publish([ordered.unit.name for ordered in orders], facts)
        finally:
            delete(scratch)

    return workspace.make(STAGE, VERSION, settings.config(), inputs, work)


def _refuse_unscored(columns: Mapping[str, Artefact]) -> None:
    for name, column in columns.items():
        if column.facts["excluded"] == column.facts["documents"]:
            raise BudgetError(
                f"{name} excludes all {column.facts['documents']:,} documents of the pool (every "
                "score is NaN or infinite)",
                key="budget.rank",
                fix=f"fix select.{name}, or rank by another column",
            )


# -- choosing ---------------------------------------------------------------------------------


def _allowances(
    orders: Sequence[OrderedUnit], found: Found, runner: Runner
) -> Iterator[Sequence[int]]:
    """Yield, for each unit, the tokens that each group may take there of documents on its cutoff.

    Where score and hash are equal to the last bit, the earlier document of the corpus is taken.
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
    return found.candidates.read(ordered.unit).on_cutoff(
        [cutoff.prefix for cutoff in found.cutoffs]
    )


# -- writing ----------------------------------------------------------------------------------


def write_units(
    orders: Sequence[OrderedUnit],
    found: Found,
    draft: Draft,
    runner: Runner,
    carried: Sequence[str] = ("id", "source", "hash"),
) -> list[FileRecord]:
    """Write the documents that are taken: a file for each unit, recorded in the draft.

    Args:
        orders: All units.
        found: The cutoffs, and the candidates.
        draft: Draft of the cut; units that an earlier attempt wrote are not written again.
        runner: Runs a task for each unit.
        carried: Columns of the units' files of rows that are repeated in the cut.

    Returns:
        The record of each unit's file, in the order of the units.
    """
    return draft.fill(
        runner.run,
        _write_unit,
        {pair[0].unit.name: pair for pair in zip(orders, _allowances(orders, found, runner))},
        _CutWriting(found, draft.path, carried),
    )


@dataclass(frozen=True, slots=True)
class _CutWriting:
    """The state that every task of :func:`write_units` shares."""

    found: Found
    directory: AnyPath
    carried: Sequence[str]


def _write_unit(item: tuple[OrderedUnit, Sequence[int]], shared: _CutWriting) -> FileRecord:
    """Write the file of a unit, given the tokens that each group may take on its cutoff."""
    ordered, allowed = item
    unit = ordered.unit
    taken = shared.found.candidates.read(unit).take(shared.found.cutoffs, allowed)
    scores = score_of(taken.order.key)
    count = len(taken.row)
    rows = unit.numbers()[taken.row] if count else taken.row
    table = pa.table(
        {
            "unit": np.full(count, unit.number, dtype=np.int32),
            "row": rows,
            **_carried(unit, taken.row, shared.carried),
            "score": scores,
            "tokens": taken.tokens,
            "group": taken.order.group,
        }
    )
    name = f"{unit.name}.parquet"
    with atomic_file(shared.directory / name) as sink:
        pq.write_table(
            table,
            sink,
            compression="zstd",
            use_dictionary=["unit", "source", "group"],
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
    table = unit.read_rows(columns).take(pa.array(rows))
    return {name: table.column(name) for name in columns}


def _by_source(table: pa.Table) -> dict[str, dict[str, int]]:
    sums = table.group_by("source").aggregate([("tokens", "sum"), ("tokens", "count")])
    return {
        row["source"]: {"documents": row["tokens_count"], "tokens": row["tokens_sum"]}
        for row in sorted(sums.to_pylist(), key=lambda row: str(row["source"]))
    }


def _facts(
    draft: Draft,
    records: Sequence[FileRecord],
    quotas: Sequence[Quota],
    cutoffs: Sequence[Cutoff],
    requested: int,
) -> dict[str, Any]:
    by_source = sum_by_source(records)
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
        "by_source": largest_sources(by_source, "tokens"),
        "lowest_score": min(lowest, default=None),
    }
