"""Budgets worked out by hand, and sums that must be exact whatever the shares."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import BudgetError, RecipeError
from penstock.pipeline.cutting.budget import quotas_of
from penstock.recipe import Budget

POOL = {
    "code": {"documents": 3, "bytes": 30},
    "web": {"documents": 5, "bytes": 500},
    "wiki": {"documents": 7, "bytes": 70},
}


def sequences(tokens: int, length: int, shares: dict[str, float]) -> dict[str | None, int]:
    quotas = quotas_of(Budget(tokens=tokens, rank="random", shares=shares), length, POOL)
    return {quota.name: quota.tokens // length for quota in quotas}


def test_without_shares_all_sources_are_one_pool() -> None:
    (quota,) = quotas_of(Budget(tokens=1_999, rank="random"), 100, POOL)
    assert (quota.name, quota.tokens) == (None, 1_900)
    assert (quota.pool_bytes, quota.pool_documents) == (600, 15)


def test_the_rest_of_the_pool_competes_for_the_rest_of_the_tokens() -> None:
    budget = Budget(tokens=10_000, rank="random", shares={"wiki": 0.25})
    wiki, rest = quotas_of(budget, 100, POOL)
    assert (wiki.name, wiki.tokens, wiki.pool_bytes, wiki.pool_documents) == ("wiki", 2_500, 70, 7)
    assert (rest.name, rest.tokens, rest.pool_bytes, rest.pool_documents) == (None, 7_500, 530, 8)


def test_shares_are_decimals_not_binary_fractions() -> None:
    # In float64, 0.29 * 100 is 28.999999999999996.
    assert sequences(10_000, 100, {"wiki": 0.29}) == {"wiki": 29, None: 71}


def test_leftover_sequences_go_to_the_largest_remainders() -> None:
    # 10 sequences: 3.3, 1.8 and 4.9 are cut to 3, 1 and 4; two are left for code and wiki.
    shares = {"web": 0.33, "code": 0.18, "wiki": 0.49}
    assert sequences(1_000, 100, shares) == {"code": 2, "web": 3, "wiki": 5, None: 0}


def test_equal_remainders_go_by_name() -> None:
    assert sequences(300, 100, {"wiki": 0.5, "web": 0.5}) == {"web": 2, "wiki": 1, None: 0}


def test_the_order_in_which_shares_are_listed_changes_nothing() -> None:
    one, other = {"wiki": 0.3, "code": 0.2}, {"code": 0.2, "wiki": 0.3}
    assert list(sequences(5_000, 100, one).items()) == list(sequences(5_000, 100, other).items())


def test_thirds_are_everything() -> None:
    third = 1 / 3
    shares = {"web": third, "wiki": third, "code": third}
    assert sequences(30_000, 100, shares) == {"code": 100, "web": 100, "wiki": 100, None: 0}
    assert sequences(30_100, 100, shares) == {"code": 101, "web": 100, "wiki": 100, None: 0}


def test_a_sum_a_little_above_one_does_not_overdraw_a_huge_budget() -> None:
    shares = {"web": 0.3333333334, "wiki": 0.3333333333, "code": 0.3333333334}
    assert sum(sequences(10**13, 8, shares).values()) == 10**13 // 8


def pools_shares(tokens: int, length: int, sizes: dict[str, int]) -> dict[str | None, int]:
    pool = {name: {"documents": 1, "bytes": size} for name, size in sizes.items()}
    quotas = quotas_of(Budget(tokens=tokens, rank="random", shares="pool"), length, pool)
    return {quota.name: quota.tokens // length for quota in quotas}


def test_the_pools_shares_are_those_of_its_bytes() -> None:
    # Of 600 bytes 30, 500 and 70: 5, 83.3 and 11.7 of 100 sequences.
    budget = Budget(tokens=10_000, rank="random", shares="pool")
    quotas = quotas_of(budget, 100, POOL)
    assert [(own.name, own.tokens, own.pool_bytes, own.pool_documents) for own in quotas] == [
        ("code", 500, 30, 3),
        ("web", 8_300, 500, 5),
        ("wiki", 1_200, 70, 7),
        (None, 0, 0, 0),
    ]


@given(
    st.integers(0, 10**15),
    st.integers(1, 600),
    st.lists(st.integers(1, 10**14), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_pools_shares_are_apportioned_by_largest_remainders(
    extra: int, length: int, sizes: list[int], chance: Random
) -> None:
    """Against a plain sort of remainders; the order of sources changes nothing."""
    by_name = {f"s{number:02}": size for number, size in enumerate(sizes)}
    total, whole = sum(sizes), (length + extra) // length
    exact = {
        name: Fraction(size, total) * (length + extra) / length for name, size in by_name.items()
    }
    expected = {name: exact[name].__floor__() for name in by_name}
    by_remainder = sorted(by_name, key=lambda name: (expected[name] - exact[name], name))
    for name in by_remainder[: whole - sum(expected.values())]:
        expected[name] += 1
    shuffled = list(by_name.items())
    chance.shuffle(shuffled)
    found = pools_shares(length + extra, length, dict(shuffled))
    assert list(found) == [*sorted(by_name), None]
    assert found == {**expected, None: 0}
    assert all(abs(found[name] - exact[name]) < 1 for name in by_name)


@given(
    st.integers(100, 10**15),
    st.integers(1, 100),
    st.lists(st.integers(1, 1000), min_size=1, max_size=3),
    st.booleans(),
)
def test_the_total_is_exact_and_no_share_is_off_by_a_sequence(
    tokens: int, length: int, parts: list[int], everything: bool
) -> None:
    whole = sum(parts) + (0 if everything else 1)
    shares = {source: part / whole for source, part in zip(POOL, parts)}
    found = sequences(tokens, length, shares)
    assert sum(found.values()) == tokens // length
    assert min(found.values()) >= 0
    for source, part in zip(POOL, parts):
        exact = Fraction(part, whole) * tokens / length
        # Shares are floats: 1e-9 of the whole is what their sum is allowed to be off by.
        slack = 1 + exact / 10**9
        assert abs(found[source] - exact) <= slack
        if not everything:
            assert found[source] <= exact + exact / 10**9


def test_less_than_a_sequence_is_refused() -> None:
    with pytest.raises(BudgetError) as caught:
        sequences(511, 512, {})
    assert (caught.value.key, caught.value.got) == ("budget.tokens", "511")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wki", r"no source 'wki'; did you mean 'wiki'\?"),
        ("xxxxxx", r"no source 'xxxxxx'; expected one of code, web, wiki"),
    ],
)
def test_a_share_of_no_source_is_refused(source: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        sequences(1_000, 100, {source: 0.5})
