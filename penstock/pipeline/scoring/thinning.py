"""Documents that a set selector leaves out before it scores the others, such as near copies.

Each document has a *nearness*, found in its partition; those above a limit are left out. Where a
share is to be kept, the limit is found on the whole pool: the nearness of every document is
written, 4 bytes each, and the limit is an order statistic of all of them
(:func:`penstock.pipeline.scoring.scales.order_statistics`). So the share is met to within the
documents of one nearness. Where nearness depends on the limit, the limit is bisected, with a pass
over the partitions for each step. The cost is one more pass over the partitions' vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.artefact import Draft, FileRecord, canonical
from penstock.pipeline.checking import call_plugin, scores_of
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.partitions import Limit, PartitionPlan, PartitionRange
from penstock.pipeline.scoring.scales import order_statistics
from penstock.selectors.base import Thinning
from penstock.storage import atomic_file

__all__ = ["thin", "thinning_facts"]

_HALVINGS = 18
"""Bisections of the limit: 1e-5 of a range of 2, a tenth of what rounding to the lattice changes a
cosine by."""

_PART = "thinned"


def thin(
    plan: PartitionPlan,
    thinning: Thinning,
    draft: Draft,
    runner: Runner,
    progress: Callable[[str], None],
) -> PartitionPlan:
    """Find which documents stay, and give their sample to the selector.

    Documents are in their partitions already. The selector is changed; facts are recorded in the
    draft.

    Returns:
        The plan with the limit.
    """

    def measure(round: int, limit: float) -> tuple[int, int]:
        """Write the nearness of every document; count the documents and those that stay."""
        parts = {f"nearness-{round:02d}-{name}": own for name, own in plan.ranges.items()}
        records = draft.fill(runner.run, _measure, parts, (plan, thinning, round, limit))
        counts = [(record.facts["documents"], record.facts["stay"]) for record in records]
        return sum(count for count, _ in counts), sum(stay for _, stay in counts)

    low, high = thinning.limits
    if thinning.keep is None:
        assert thinning.limit is not None
        found = Limit(thinning.limit, 0)
        documents, stay = measure(0, found.value)
    elif thinning.alone:
        documents, _ = measure(0, high)
        value = _quantile(plan, runner, documents, thinning.keep)
        found = Limit(min(max(value, low), high), 0)
        stay = sum(
            count for _, count in runner.run(_count, list(plan.ranges.values()), (plan, found))
        )
    else:
        found, documents, stay = _bisect(measure, low, high, thinning.keep)
    plan = replace(plan, limit=found)
    vectors = np.empty((0, plan.width), np.int16)
    if thinning.sample:
        drawn = {f"survivors-{name}": own for name, own in plan.ranges.items()}
        share = min(1.0, thinning.sample / max(stay, 1))
        draft.fill(runner.run, _draw, drawn, (plan, share))
        rows = plan.survivors.read(0)
        vectors = rows["vector"][np.argsort(rows["hash"], kind="stable")]
    facts = call_plugin(plan.key, None, thinning.fit, found.value, stay, vectors)
    facts = {**facts, "thinned_to": stay}
    progress(f"{plan.name}: {stay:,} of {documents:,} documents stay")
    if draft.done(_PART) is None:
        with atomic_file(draft.path / "thinned.json") as sink:
            sink.write(canonical(facts))
        draft.record(_PART, [FileRecord.of("thinned.json", sink, **facts)])
    return plan


def thinning_facts(draft: Draft) -> Mapping[str, Any]:
    """Return the facts that :func:`thin` recorded, none where nothing was left out."""
    return {} if draft.done(_PART) is None else draft.files([_PART])[0].facts


def _quantile(plan: PartitionPlan, runner: Runner, documents: int, keep: float) -> float:
    """Find the lowest nearness below or at which a share of the documents is."""
    if not documents:
        return math.inf
    rank = math.ceil(keep * documents) - 1
    items = list(plan.ranges.values())
    return order_statistics(lambda total: {rank}, _read, items, plan, runner)[rank]


def _bisect(
    measure: Callable[[int, float], tuple[int, int]], low: float, high: float, keep: float
) -> tuple[Limit, int, int]:
    """Find a low limit that keeps a share of the documents or more."""
    found, (documents, stay) = Limit(high, 0), measure(0, high)
    for round in range(1, _HALVINGS + 1):
        middle = (low + high) / 2
        _, count = measure(round, middle)
        if count >= keep * documents:
            high, found, stay = middle, Limit(middle, round), count
        else:
            low = middle
    return found, documents, stay


_Measured = tuple[PartitionPlan, Thinning, int, float]


def _measure(item: PartitionRange, shared: _Measured) -> FileRecord:
    plan, thinning, round, limit = shared
    rows = plan.read(item)
    near = np.empty(len(rows), np.float32)
    for number, own in plan.each(item, rows):
        partition = plan.partition(rows[own], number)
        at = f"partition {number}, {len(partition):,} documents"
        returned = call_plugin(plan.key, at, thinning.nearness, partition, limit)
        near[own] = scores_of(returned, len(partition), plan.key, at)
    shuffle = plan.nearness(round)
    return shuffle.write(
        item.task,
        near.view(shuffle.dtype),
        np.zeros(len(near), np.int64),
        documents=int((~np.isnan(near)).sum()),
        stay=int((near <= np.float32(limit)).sum()),
    )


def _read(item: PartitionRange, plan: PartitionPlan) -> np.ndarray:
    return plan.nearness(0).read_source(item.task)["nearness"]


def _count(item: PartitionRange, shared: tuple[PartitionPlan, Limit]) -> int:
    plan, limit = shared
    return int((_read(item, plan) <= np.float32(limit.value)).sum())


def _draw(item: PartitionRange, shared: tuple[PartitionPlan, float]) -> FileRecord:
    """Write about a share of the documents that stay, those of the lowest hashes."""
    plan, share = shared
    rows = plan.read_staying(item)
    drawn = rows[rows["hash"] >> np.uint64(11) < np.uint64(round(share * 2**53))]
    return plan.survivors.write(item.task, drawn, np.zeros(len(drawn), np.int64))
