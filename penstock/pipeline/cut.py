"""Columns to cut: which documents fill the budget, to the token.

Two exact radix selections (:mod:`penstock.pipeline.radix`). The first is by bytes of text, and
only plans: it names the candidates that should hold the budget and a margin, so that no more than
those are tokenised; where the margin was too thin it is widened. The second is by tokens and
decides. The last document in is shortened so that the cut is whole sequences, for each share.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
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
from penstock.pipeline.radix import Cutoff, Order, Tally, find_cutoffs, tally
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import TokenStore, open_tokens
from penstock.recipe import Recipe

__all__ = ["make_cut"]

STAGE = "cut"
VERSION = 1

_MARGIN = 1.05
"""Candidates' text over what the budget is expected to need. Bytes per token of a selection
differ from the pool's by a few per cent; a thin margin costs a second, small round at worst."""

_CERTAINLY_SHORT = 1.3
"""A budget this many times the pool's estimated tokens is refused before tokenising the pool."""


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
            cutter = _Cutter(orders, quotas, length, tokens, runner)
            cutoffs = cutter.cutoffs(recipe.budget.allow_short)
            return _write(draft, cutter, cutoffs, recipe)
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
class _Cutter:
    """The search for the cutoffs, with all it needs to know."""

    orders: Sequence[OrderedUnit]
    quotas: Sequence[Quota]
    length: int
    tokens: TokenStore
    runner: Runner

    def cutoffs(self, allow_short: bool) -> list[Cutoff]:
        """Where each group's budget of tokens is crossed."""
        wanted = [quota.sequences * self.length for quota in self.quotas]
        if not allow_short:
            self._refuse_hopeless(wanted)
        per_token = self.tokens.bytes_per_token
        bytes_wanted = [int(count * per_token * _MARGIN) for count in wanted]
        while True:
            candidates = find_cutoffs(bytes_wanted, lambda *what: self._tallies("bytes", *what))
            self._tokenise(candidates)
            found = find_cutoffs(wanted, lambda *what: self._tallies("tokens", *what))
            thin = [
                group
                for group, cutoff in enumerate(found)
                if cutoff.short and not candidates[group].everything
            ]
            if not thin:
                break
            for group in thin:
                missing = wanted[group] / max(1, found[group].total)
                bytes_wanted[group] = int(bytes_wanted[group] * missing * _MARGIN) + 1
        short = [group for group, cutoff in enumerate(found) if cutoff.short]
        if not short:
            return found
        if not allow_short:
            raise BudgetError(self._too_small(short, [cutoff.total for cutoff in found], ""))
        wanted = [
            min(count, cutoff.total // self.length * self.length)
            for count, cutoff in zip(wanted, found)
        ]
        if not any(wanted):
            raise BudgetError(self._too_small(short, [cutoff.total for cutoff in found], ""))
        return find_cutoffs(wanted, lambda *what: self._tallies("tokens", *what))

    def _tallies(
        self, unit_of_size: str, prefixes: Sequence[tuple[int, ...] | None], level: int
    ) -> Iterable[Tally]:
        shared = (unit_of_size, prefixes, level)
        for _, sums in self.runner.run(_tally_unit, self.orders, shared):
            yield sums

    def _tokenise(self, candidates: Sequence[Cutoff]) -> None:
        """Make sure that all candidates are tokenised, and leave their sizes beside the orders."""
        items = [(ordered, self.tokens.parts(ordered.unit)) for ordered in self.orders]
        shared = (candidates, self.tokens.directory, self.tokens.dtype)
        missing = {index: rows for index, rows in self.runner.run(_missing_rows, items, shared)}
        self.tokens.add(missing, self.runner)
        items = [(ordered, self.tokens.parts(ordered.unit)) for ordered in self.orders]
        for _ in self.runner.run(_write_sizes, items, shared):
            pass

    def _refuse_hopeless(self, wanted: Sequence[int]) -> None:
        """Refuse, before tokenising a pool, what it cannot hold by any estimate.

        Bytes per token are measured over the whole pool; one source may take several times the
        tokens for its bytes, so a share is refused early only above one token a byte
        (and its two ends a document).
        """
        estimates = [
            int(quota.pool_bytes / self.tokens.bytes_per_token) + quota.pool_documents
            for quota in self.quotas
        ]
        most = (
            estimates
            if len(self.quotas) == 1
            else [quota.pool_bytes + 2 * quota.pool_documents for quota in self.quotas]
        )
        hopeless = [
            group for group, count in enumerate(wanted) if count > most[group] * _CERTAINLY_SHORT
        ]
        if hopeless:
            raise BudgetError(self._too_small(hopeless, estimates, "about "))

    def _too_small(self, groups: Sequence[int], sizes: Sequence[int], about: str) -> str:
        parts = []
        for group in groups:
            quota = self.quotas[group]
            whose = "the pool" if len(self.quotas) == 1 else quota.name or "the rest of the pool"
            parts.append(
                f"asked for {quota.sequences * self.length:,} tokens of {whose}, which holds "
                f"{about}{sizes[group]:,} that may be taken ({quota.pool_documents:,} documents, "
                f"{quota.pool_bytes:,} bytes)"
            )
        key = "budget.shares" if any(self.quotas[g].name for g in groups) else "budget.tokens"
        return (
            f"{key}: {'; '.join(parts)}; lower it, add documents, or set budget.allow_short: true "
            f"to take the whole sequences of {self.length} tokens that there are"
        )


# -- tasks over one unit ----------------------------------------------------------------------


def _sizes_path(ordered: OrderedUnit) -> Path:
    return ordered.path.with_suffix(".sizes.npy")


def _tally_unit(
    ordered: OrderedUnit, shared: tuple[str, Sequence[tuple[int, ...] | None], int]
) -> Tally:
    unit_of_size, prefixes, level = shared
    order, sizes = ordered.read()
    if unit_of_size == "tokens":
        sizes = np.load(_sizes_path(ordered), mmap_mode="r")
    return tally(order, sizes, prefixes, level)


def _candidate_rows(order: Order, cutoffs: Sequence[Cutoff]) -> np.ndarray:
    """Rows at or above their group's cutoff, ascending."""
    chosen = np.zeros(len(order.key), dtype=bool)
    for group, cutoff in enumerate(cutoffs):
        above, inside = order.against(cutoff.prefix)
        chosen |= (order.group == group) & (above | inside)
    return np.flatnonzero(chosen)


Item = tuple[OrderedUnit, Sequence[FileRecord]]
Candidates = tuple[Sequence[Cutoff], Path, str]


def _missing_rows(item: Item, shared: Candidates) -> np.ndarray:
    ordered, parts = item
    cutoffs, directory, dtype = shared
    rows = _candidate_rows(ordered.read()[0], cutoffs)
    return np.setdiff1d(rows, open_tokens(directory, parts, dtype).rows, assume_unique=True)


def _write_sizes(item: Item, shared: Candidates) -> None:
    """Tokens of each candidate, 0 for the others: (n,) int64."""
    ordered, parts = item
    cutoffs, directory, dtype = shared
    order, _ = ordered.read()
    rows = _candidate_rows(order, cutoffs)
    known = open_tokens(directory, parts, dtype)
    sizes = np.zeros(len(order.key), dtype=np.int64)
    sizes[rows] = known.sizes[np.searchsorted(known.rows, rows)]
    with atomic_file(_sizes_path(ordered)) as sink:
        np.save(sink, sizes, allow_pickle=False)


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
    sizes = np.load(_sizes_path(ordered))
    return [
        int(sizes[(order.group == group) & order.against(cutoff.prefix)[1]].sum())
        for group, cutoff in enumerate(cutoffs)
    ]


def _choose(item: tuple[OrderedUnit, Sequence[int]], cutoffs: Sequence[Cutoff]) -> _Chosen:
    """Take what stands above the cutoffs whole, and ``allowed`` tokens of what stands on them."""
    ordered, allowed = item
    order, _ = ordered.read()
    sizes = np.load(_sizes_path(ordered))
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


def _allowances(cutter: _Cutter, cutoffs: Sequence[Cutoff]) -> list[list[int]]:
    """For each unit and group, the tokens it may take of documents on the cutoff.

    Where score and hash are equal to the last bit, the earlier document of the corpus goes first.
    """
    left = [cutoff.quota - cutoff.above for cutoff in cutoffs]
    if all(cutoff.inside <= 1 for cutoff in cutoffs):
        return [left for _ in cutter.orders]
    tied = dict(cutter.runner.run(_tied_tokens, cutter.orders, cutoffs))
    allowances = []
    for number in range(len(cutter.orders)):
        allowances.append(list(left))
        left = [max(0, have - use) for have, use in zip(left, tied[number])]
    return allowances


def _write(draft: Draft, cutter: _Cutter, cutoffs: Sequence[Cutoff], recipe: Recipe) -> Artefact:
    items = list(zip(cutter.orders, _allowances(cutter, cutoffs)))
    chosen = dict(cutter.runner.run(_choose, items, cutoffs))
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
        for ordered, part, end in zip(cutter.orders, parts, ends)
    ]
    for index, record in cutter.runner.run(_write_unit, jobs, draft.path):
        draft.record(cutter.orders[index].unit.name, [record])
    names = [ordered.unit.name for ordered in cutter.orders]
    return draft.publish(names, _facts(draft, names, cutter, cutoffs, recipe))


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
    cutter: _Cutter,
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
            {"source": quota.name, "tokens": tokens}
            for quota, tokens in zip(cutter.quotas, delivered)
        ],
        "by_source": dict(sorted(by_source.items())),
        "lowest_score": min(lowest, default=None),
    }
