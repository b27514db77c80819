"""Ranks by ranges against a plain sort, with ranges of a few documents."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.cutting.radix import Order
from penstock.pipeline.cutting.ranks import descending, make_ranks
from penstock.pipeline.runner import LocalRunner
from penstock.storage import AnyPath, as_path

ONE = LocalRunner(1)


def order_of(keys: Sequence[int], ties: Sequence[int]) -> Order:
    return Order(
        np.array(keys, np.uint32), np.array(ties, np.uint64), np.zeros(len(keys), np.int16)
    )


def itself(order: Order) -> Order:
    return order


def ranks_of(
    batches: Sequence[Sequence[Order]], directory: AnyPath, limit: int, runner: LocalRunner = ONE
) -> list[list[int]]:
    found = make_ranks(batches, itself, directory, runner, limit)
    return [ranks.read().tolist() for ranks in found]


def expected(batches: Sequence[Sequence[Order]]) -> list[list[int]]:
    """Sort everything: best score, then best hash, then the units' order."""
    units = [unit for batch in batches for unit in batch]
    every = [
        (-int(key), -int(tie), number, row)
        for number, unit in enumerate(units)
        for row, (key, tie) in enumerate(zip(unit.key, unit.tie))
    ]
    ranks = [[0] * len(unit.key) for unit in units]
    for rank, (_, _, number, row) in enumerate(sorted(every), 1):
        ranks[number][row] = rank
    return ranks


KEYS = st.one_of(st.sampled_from([0, 7, 2**16, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
# The lowest 32 bits are not among those that are sorted first.
TIES = st.one_of(st.sampled_from([0, 1, 2, 2**32, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
ORDERS = st.lists(st.tuples(KEYS, TIES), max_size=12).map(
    lambda rows: order_of([key for key, _ in rows], [tie for _, tie in rows])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(ORDERS, min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_ranks_are_those_of_a_sort_whatever_the_ranges(
    batches: list[list[Order]], data: st.DataObject
) -> None:
    limit = data.draw(st.sampled_from([1, 2, 5, 10**6]), label="limit")
    with tempfile.TemporaryDirectory() as directory:
        assert ranks_of(batches, Path(directory), limit) == expected(batches)


@given(ORDERS)
def test_descending_is_stable_to_the_last_bit(order: Order) -> None:
    assert descending(order).tolist() == np.lexsort((~order.tie, ~order.key)).tolist()


def pool(units: int, rows: int, scores: int) -> list[list[Order]]:
    chance = np.random.default_rng(0)
    orders = [
        order_of(chance.integers(0, scores, rows), chance.integers(0, 2**63, rows))
        for _ in range(units)
    ]
    return [orders[start : start + 2] for start in range(0, units, 2)]


@pytest.mark.parametrize("scores", [1, 3, 10**9])
def test_no_range_is_much_larger_than_the_limit(tmp_path: Path, scores: int) -> None:
    """Not even where all have one score: then the hash divides them."""
    batches = pool(8, 2_500, scores)
    assert ranks_of(batches, tmp_path, limit=1_000) == expected(batches)
    sizes = [path.stat().st_size // 8 for path in sorted(tmp_path.glob("range-*"))]
    assert sum(sizes) == 20_000
    assert 20 <= len(sizes) <= 22
    assert max(sizes) <= 1_100


def test_two_workers_give_the_same_ranks(tmp_path: Path) -> None:
    batches = pool(5, 300, 40)
    runner = LocalRunner(2)
    try:
        both = ranks_of(batches, tmp_path / "two", 100, runner)
    finally:
        runner.close()
    assert both == ranks_of(batches, tmp_path / "one", 100)


def test_scratch_may_lie_in_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    batches = pool(6, 200, 40)
    store = as_path(f"memory://{tmp_path.name}")
    assert ranks_of(batches, store, 100) == expected(batches)
    assert not list(tmp_path.rglob("range-*")), "only slices of ranges are fetched"


def test_nothing_has_no_ranks(tmp_path: Path) -> None:
    assert ranks_of([[order_of([], [])] * 2], tmp_path, 10) == [[], []]
