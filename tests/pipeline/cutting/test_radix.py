"""The radix selection against a plain sort, over pools that are all ties and edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.pipeline.cutting.radix import (
    ABOVE,
    ALL,
    INSIDE,
    NONE,
    Cutoff,
    DigitSums,
    Order,
    Prefix,
    find_cutoffs,
    order_bits,
    score_of,
    sum_by_digit,
)

SMALLEST = float(np.nextafter(np.float32(0), np.float32(1)))
LARGEST = float(np.finfo(np.float32).max)
EDGES = [float("-inf"), -LARGEST, -1.5, -SMALLEST, 0.0, SMALLEST, 1.5, LARGEST, float("inf")]
FLOATS = st.one_of(st.sampled_from([*EDGES, -0.0]), st.floats(width=32, allow_nan=False))


@given(st.lists(FLOATS, min_size=2, max_size=30))
@example([-0.0, 0.0])
def test_order_bits_keeps_order_and_equality(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    bits = order_bits(scores)
    assert bits.dtype == np.uint32
    assert ((bits[:, None] < bits) == (scores[:, None] < scores)).all()
    assert ((bits[:, None] == bits) == (scores[:, None] == scores)).all()
    np.testing.assert_array_equal(score_of(bits), scores)


def test_order_bits_golden() -> None:
    bits = order_bits(np.array(EDGES, np.float32)).tolist()
    assert bits == sorted(set(bits))
    assert bits[0] == 0x007FFFFF
    assert bits[4] == 0x80000000
    assert bits[5] == 0x80000001
    assert bits[-1] == 0xFF800000
    assert order_bits(np.array([-0.0], np.float32))[0] == 0x80000000


@pytest.mark.parametrize("width", [8, 16])
def test_a_prefix_spells_key_then_tie(width: int) -> None:
    whole = 0x123456789ABCDEF013572468
    prefix = Prefix()
    for bits in range(width, 97, width):
        prefix = prefix.then(whole >> (96 - bits) & ((1 << width) - 1), width)
        kept = whole >> (96 - bits) << (96 - bits)
        assert prefix == Prefix(bits, kept >> 64, kept & 0xFFFFFFFFFFFFFFFF)
        key_mask, tie_mask = prefix.masks
        assert (key_mask << 64 | tie_mask) == (1 << 96) - (1 << (96 - bits))


def test_all_is_below_every_score_and_none_above() -> None:
    order = pool_of([*EDGES, 0.0], [0, *[2**64 - 1] * 9], [*[0] * 9, -1])
    assert order.against([ALL]).tolist() == [ABOVE] * 9 + [0]
    assert order.against([NONE]).tolist() == [0] * 10
    assert order.against([Prefix()]).tolist() == [INSIDE] * 9 + [0]


Pool = tuple[Order, np.ndarray]


def pool_of(keys: Sequence[float], ties: Sequence[int], groups: Sequence[int]) -> Order:
    return Order(
        order_bits(np.array(keys, np.float32)),
        np.array(ties, np.uint64),
        np.array(groups, np.int16),
    )


def some(pool: Pool, rows: np.ndarray) -> Pool:
    order, sizes = pool
    return Order(order.key[rows], order.tie[rows], order.group[rows]), sizes[rows]


def cutoffs(units: Sequence[Pool], quotas: Sequence[int], slack: float = 0) -> list[Cutoff]:
    return find_cutoffs(
        quotas,
        lambda prefixes, width: [sum_by_digit([unit], prefixes, width) for unit in units],
        slack,
    )


def expected(pool: Pool, group: int, quota: int) -> tuple[set[int], set[int], int]:
    """By sorting: rows taken whole, rows that the quota is crossed in, size of the group."""
    order, sizes = pool
    mine = [i for i in range(len(sizes)) if order.group[i] == group and sizes[i] > 0]
    place = {i: (int(order.key[i]), int(order.tie[i])) for i in mine}
    mine.sort(key=lambda i: place[i], reverse=True)
    total = int(sum(sizes[i] for i in mine))
    if quota == 0:
        return set(), set(), 0
    if total <= quota:
        return set(mine), set(), total
    filled = 0
    for crossing in mine:
        filled += int(sizes[crossing])
        if filled >= quota:
            break
    return (
        {i for i in mine if place[i] > place[crossing]},
        {i for i in mine if place[i] == place[crossing]},
        total,
    )


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Few scores and few hashes, so that ties of both are common."""
    count = draw(st.integers(0, 40))

    def column(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=count, max_size=count))

    scores = column(st.one_of(st.sampled_from(EDGES), st.floats(-1, 1, width=32)))
    near = st.sampled_from([0, 1, 2**16, 2**32, 2**48, 2**63, 2**64 - 1])
    ties = column(st.one_of(near, st.integers(0, 2**64 - 1)))
    order = pool_of(scores, ties, column(st.integers(-1, 2)))
    return order, np.array(column(st.integers(0, 50)), np.int64)


@settings(max_examples=150, deadline=None)
@given(pools(), st.data())
def test_cutoffs_are_those_of_a_sort(pool: Pool, data: st.DataObject) -> None:
    order, sizes = pool
    totals = [int(sizes[order.group == group].sum()) for group in range(3)]
    quotas = [
        data.draw(
            st.one_of(st.sampled_from([0, total, total + 1]), st.integers(0, total + 5)),
            label="quota",
        )
        for total in totals
    ]
    rows = np.array(data.draw(st.permutations(range(len(sizes)))), dtype=np.int64)
    edges = sorted(data.draw(st.lists(st.integers(0, len(sizes)), max_size=3)))
    units = [some(pool, part) for part in np.split(rows, edges)]
    found = cutoffs(units, quotas)
    assert found == cutoffs([pool], quotas), "the division into units changed the cut"
    batched = find_cutoffs(quotas, lambda *how: [sum_by_digit(units, *how)])
    assert found == batched, "the division into tasks changed the cut"
    many = cutoffs(units, [*quotas, *[0] * 20])
    assert [(c.above, c.inside, c.total, c.quota) for c in many[:3]] == [
        (c.above, c.inside, c.total, c.quota) for c in found
    ], "digits of 8 bits changed the cut"
    for prefixes in ([c.prefix for c in found], [c.prefix for c in many]):
        check(pool, quotas, found, order.against(prefixes))


def check(pool: Pool, quotas: Sequence[int], found: list[Cutoff], stands: np.ndarray) -> None:
    order, sizes = pool
    for group, (cutoff, quota) in enumerate(zip(found, quotas)):
        whole, crossed, total = expected(pool, group, quota)
        here = (order.group == group) & (sizes > 0)
        assert cutoff.everything == (quota > 0 and not crossed)
        assert cutoff.total == total
        assert cutoff.above == sum(int(sizes[i]) for i in whole)
        assert cutoff.short == max(0, quota - total)
        if cutoff.everything:
            assert set(np.flatnonzero(here & (stands == ABOVE))) == whole
            continue
        assert set(np.flatnonzero(here & (stands == ABOVE))) == whole
        assert set(np.flatnonzero(here & (stands == INSIDE))) == crossed
        assert cutoff.inside == len(crossed)


def test_total_ties_leave_more_than_one_document_on_the_cutoff() -> None:
    pool = (pool_of([0.5] * 4, [7] * 4, [0] * 4), np.full(4, 10, np.int64))
    (cutoff,) = cutoffs([pool], [25])
    assert (cutoff.above, cutoff.inside, cutoff.total, cutoff.prefix.bits) == (0, 4, 40, 96)


def test_a_group_with_a_budget_but_no_document_is_short() -> None:
    pool = (pool_of([0.5], [7], [0]), np.array([10], np.int64))
    found = cutoffs([pool], [4, 9])
    assert (found[1].everything, found[1].total, found[1].short) == (True, 0, 9)


def test_sums_are_exact_beyond_float64() -> None:
    """2**53 + 1 is no float64: sums that pass through one lose the odd token."""
    sizes = np.array([2**53 + 1, 2**53 + 1, 5], np.int64)
    pool = (pool_of([3, 3, 1], [2, 1, 0], [0, 0, 0]), sizes)
    (cutoff,) = cutoffs([pool], [2**53 + 2])
    assert cutoff.total == 2**54 + 7
    assert (cutoff.above, cutoff.inside) == (2**53 + 1, 1)


@pytest.mark.parametrize(
    ("scores", "quota", "passes"),
    [
        ([1.0, 2.0, 3.0], 15, [0]),  # the first digit tells them apart
        ([1.0, 1.0 + 2**-20, 3.0], 15, [0, 16]),
        ([1.0, 1.0, 3.0], 15, [0, 16, 32]),
        ([1.0, 2.0, 3.0], 30, [0]),  # the whole group fits
        ([1.0, 2.0, 3.0], 0, []),
    ],
)
def test_no_pass_is_made_that_is_not_needed(
    scores: list[float], quota: int, passes: list[int]
) -> None:
    pool = (pool_of(scores, [2**60, 2**62, 2**63], [0] * 3), np.full(3, 10, np.int64))
    levels = []

    def tallies(prefixes: Sequence[Prefix | None], width: int) -> list[DigitSums]:
        levels.extend(prefix.bits for prefix in prefixes if prefix is not None)
        return [sum_by_digit([pool], prefixes, width)]

    find_cutoffs([quota], tallies)
    assert levels == passes


def test_a_plan_stops_where_a_bin_is_small_enough_and_holds_what_the_cut_takes() -> None:
    chance = np.random.default_rng(0)
    count = 20_000
    order = pool_of(chance.normal(size=count), chance.integers(0, 2**63, count), [0] * count)
    sizes = chance.integers(1, 1000, count)
    (exact,), (plan,) = (cutoffs([(order, sizes)], [10**6], slack) for slack in (0, 0.05))
    assert plan.prefix.bits < exact.prefix.bits
    assert plan.inside > 1
    planned, needed = (np.flatnonzero(order.against([c.prefix])) for c in (plan, exact))
    assert set(needed) < set(planned)
    assert sizes[planned].sum() <= 1.05 * 10**6
    assert sizes[needed].sum() >= 10**6


def test_a_tally_holds_no_more_bins_than_documents() -> None:
    order = pool_of([1.0, 1.0, 2.0, 3.0], [0] * 4, [0, 0, 1, 1])
    found = sum_by_digit([(order, np.array([5, 6, 0, 7]))], [Prefix()] * 2, 16)
    one, three = (int(order_bits(np.float32([score]))[0]) >> 16 for score in (1, 3))
    assert found.bins.tolist() == [one, (1 << 16) + three]
    assert found.sums.tolist() == [[11, 2], [7, 1]]
