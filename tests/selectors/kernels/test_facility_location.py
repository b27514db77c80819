"""Facility location: the golden kernel, and exact greedy against a naive one."""

from __future__ import annotations

import itertools
import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.kernels import facility_location
from penstock.selectors.kernels.facility_location import (
    Picks,
    Similarities,
    lazier_greedy,
    lazy_greedy,
)

GOLDEN = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])

matrices = (
    st.integers(1, 9)
    .flatmap(lambda n: arrays.arrays(np.float64, (n, n), elements=st.integers(-2, 4).map(float)))
    .map(lambda half: np.maximum(half, half.T))  # few values, so that there are ties
)


def f(matrix: np.ndarray, rows: list[int] | tuple[int, ...] | np.ndarray) -> float:
    chosen = matrix[list(rows)]
    return float(np.maximum(chosen, 0).max(axis=0, initial=0).sum())


def naive(matrix: np.ndarray, picks: int | None = None, first: tuple[int, ...] = ()) -> Picks:
    """Pick greedily, computing every gain again; of equal gains the first row."""
    count = len(matrix)
    covered, order, gains = np.zeros(count), [], []
    for step in range(count if picks is None else picks):
        gain = np.maximum(matrix - covered, 0).sum(axis=1)
        gain[order] = -1
        best = first[step] if step < len(first) else int(np.argmax(gain))
        order.append(best)
        gains.append(gain[best])
        covered = np.maximum(covered, matrix[best])
    return Picks(order=np.array(order, np.int64), gains=np.array(gains, np.float64))


def same(got: Picks, expected: Picks) -> None:
    np.testing.assert_array_equal(got.order, expected.order)
    np.testing.assert_array_equal(got.gains, expected.gains)


def clustered(count: int, width: int = 24, seed: int = 3) -> np.ndarray:
    """Draw documents on a few topics, some of them copies: (count, width) int16 on the lattice."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(12, width))
    vectors = centres[random.integers(0, 12, count)] + random.normal(size=(count, width)) * 0.7
    vectors[count // 2 : count // 2 + 5] = vectors[:5]
    return on_lattice((vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32))


def products(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.int64) @ vectors.astype(np.int64).T


def test_golden_order_gains_and_value() -> None:
    picks = lazy_greedy(Similarities(dense=GOLDEN))
    assert picks.order.tolist() == [1, 2, 0]
    np.testing.assert_allclose(picks.gains, [2.1, 0.8, 0.1], atol=1e-12)
    assert picks.gains.sum() == pytest.approx(3.0) == Similarities(dense=GOLDEN).value(picks.order)
    assert len(lazy_greedy(Similarities(dense=GOLDEN), 2)) == 2


@given(matrices, st.data())
def test_lazy_greedy_equals_naive_greedy(matrix: np.ndarray, data: st.DataObject) -> None:
    picks = data.draw(st.integers(0, len(matrix)))
    first = tuple(data.draw(st.permutations(range(len(matrix)))))[
        : data.draw(st.integers(0, picks))
    ]
    for dtype in (np.float32, np.float64):
        got = lazy_greedy(Similarities(dense=matrix.astype(dtype)), picks, first=first)
        same(got, naive(matrix, picks, first))
    assert Similarities(dense=matrix).value(got.order) == f(matrix, got.order) == got.gains.sum()


@settings(deadline=None)
@given(matrices)
def test_greedy_keeps_its_bound_and_gains_never_rise(matrix: np.ndarray) -> None:
    picks = lazy_greedy(Similarities(dense=matrix))
    assert (np.diff(picks.gains) <= 0).all()
    for size in range(1, len(matrix) + 1):
        best = max(f(matrix, rows) for rows in itertools.combinations(range(len(matrix)), size))
        assert picks.gains[:size].sum() >= (1 - 1 / math.e) * best - 1e-9


def test_cosines_of_lattice_vectors_are_exact_and_ordered_as_by_integers() -> None:
    vectors = clustered(700)
    similarities = Similarities.of(vectors, neighbours=1)
    np.testing.assert_array_equal(similarities.dense, products(vectors))
    picks = lazy_greedy(similarities)
    expected = naive(products(vectors))
    np.testing.assert_array_equal(picks.order, expected.order)
    np.testing.assert_array_equal(np.rint(picks.gains * similarities.unit), expected.gains)
    assert picks.gains.sum() == pytest.approx(700, rel=1e-3)  # everything is most like itself
    # What the test is about: most rows were copied out, and their lists were shortened.
    state = similarities._state()
    order, gains = np.empty(700, np.int64), np.empty(700)
    facility_location._lazy(state, np.empty(0, np.int64), order, gains)
    assert (state.begin >= 0).mean() > 0.9 and state.length.sum() < state.top[0] / 2


def test_the_number_of_rows_at_once_changes_nothing() -> None:
    vectors = clustered(300)
    whole = Similarities.of(vectors, neighbours=20, dense=0)
    with mock.patch.object(facility_location, "_ROWS", 37):
        np.testing.assert_array_equal(
            Similarities.of(vectors, neighbours=1).dense, products(vectors)
        )
        parted = Similarities.of(vectors, neighbours=20, dense=0)
    for name in ("starts", "rows", "values"):
        np.testing.assert_array_equal(getattr(parted, name), getattr(whole, name))


@pytest.mark.parametrize("kept", [1, 2, 7, 60])
def test_each_document_keeps_its_nearest_including_itself(kept: int) -> None:
    random = np.random.default_rng(kept)
    vectors = random.integers(-2, 3, (60, 4)).astype(np.int16)  # many ties, copies, and zeros
    matrix = products(vectors)
    expected = np.zeros((60, 60))
    for row in range(60):
        own = matrix[row].astype(float)
        own[row] = np.inf
        near = np.argsort(-own, kind="stable")[:kept]
        expected[near, row] = np.maximum(matrix[row, near], 0)
    similarities = Similarities.of(vectors, neighbours=kept, dense=0)
    got = np.zeros((60, 60))
    for candidate, (start, end) in enumerate(itertools.pairwise(similarities.starts)):
        rows = similarities.rows[start:end]
        assert (np.diff(rows) > 0).all()
        got[candidate, rows] = similarities.values[start:end]
    np.testing.assert_array_equal(got, expected)
    assert len(similarities) == 60
    picks = lazy_greedy(similarities)
    expected_picks = naive(expected)
    np.testing.assert_array_equal(picks.order, expected_picks.order)
    np.testing.assert_allclose(picks.gains * similarities.unit, expected_picks.gains)
    some = picks.order[:9]
    assert similarities.value(some) * similarities.unit == pytest.approx(f(expected, some))
    # Looking at the lists does not write to them.
    same(lazy_greedy(similarities), picks)


def test_as_many_nearest_as_documents_are_all() -> None:
    vectors = clustered(200)
    same(
        lazy_greedy(Similarities.of(vectors, neighbours=200, dense=0)),
        lazy_greedy(Similarities.of(vectors, neighbours=1)),
    )


def test_the_nearest_few_cover_nearly_as_much() -> None:
    vectors = clustered(1500)
    whole = Similarities.of(vectors, neighbours=1)
    few = lazy_greedy(Similarities.of(vectors, neighbours=40, dense=1499), 60)
    covered, best = whole.value(few.order), whole.value(lazy_greedy(whole, 60).order)
    assert best * 0.99 < covered <= best * 1.01 and whole.value(np.arange(60)) < best * 0.95


def test_lazier_greedy_draws_by_its_key_and_is_exact_where_it_draws_all() -> None:
    vectors = clustered(300)
    similarities = Similarities.of(vectors, neighbours=1)
    exact = lazy_greedy(similarities)
    same(lazier_greedy(similarities, key=5, epsilon=1e-200), exact)  # 460 candidates a pick
    one, again, other = (lazier_greedy(similarities, key=key) for key in (5, 5, 6))
    same(one, again)
    assert (one.order != other.order).any()
    for picks in (one, other):
        assert sorted(picks.order) == list(range(300))
        assert picks.gains.sum() == pytest.approx(exact.gains.sum())
    # Its order is mostly chance where it is asked for all, and sound where for a few.
    by_row = [np.empty(300), np.empty(300)]
    by_row[0][exact.order], by_row[1][one.order] = exact.gains, one.gains
    ranks = [np.argsort(np.argsort(gains)) for gains in by_row]
    assert np.corrcoef(ranks)[0, 1] < 0.7
    few = lazier_greedy(similarities, 20, key=5)
    assert few.gains.sum() > 0.93 * exact.gains[:20].sum() > one.gains[:20].sum()


def test_no_documents_and_one_document() -> None:
    for dense in (0, 9):
        empty = Similarities.of(np.empty((0, 8), np.int16), neighbours=4, dense=dense)
        assert len(lazy_greedy(empty)) == len(lazier_greedy(empty, key=1)) == 0
        one = Similarities.of(clustered(12)[:1], neighbours=4, dense=dense)
        assert lazy_greedy(one).gains[0] == pytest.approx(1, abs=1e-3)
        assert one.value(np.array([0])) == lazy_greedy(one).gains[0]
