"""Ranking: golden ranks, and the top R against a full sort for any blocks."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock.selectors.base import serial_map
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.kernels import ranking
from penstock.selectors.kernels.ranking import (
    Ranker,
    highest,
    merge_highest,
    rank_sample,
    rank_scores,
)

GOLDEN = np.array([[0.9, 0.5, 0.4, 0.1], [0.1, 0.8, 0.7, 0.6]], np.float32)

similarities = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 12)),
    elements=st.sampled_from([*range(-6, 0), *range(1, 7)]).map(float),  # few, so that some tie
)


def scores_of(matrix: np.ndarray, aggregate: str, value: str, count: int = 99) -> np.ndarray:
    """Score documents along the axes, whose similarities are an example's coordinates."""
    count = min(count, matrix.shape[1])
    ranker = Ranker(examples=matrix, top_r=highest(matrix, count), aggregate=aggregate, value=value)
    return rank_scores(np.eye(matrix.shape[1]), ranker)


def ranks_by_full_sort(matrix: np.ndarray) -> np.ndarray:
    """(e, n): one more than the number of higher similarities of the same example."""
    return 1 + (matrix[:, None, :] > matrix[:, :, None]).sum(axis=2)


def test_golden_best_ranks_and_mean_log_scores() -> None:
    np.testing.assert_array_equal(scores_of(GOLDEN, "max", "rank"), [-1, -1, -2, -3])
    np.testing.assert_allclose(
        scores_of(GOLDEN, "mean", "log2"), [-1, -0.5, -1.292, -1.792], atol=5e-4
    )
    np.testing.assert_allclose(scores_of(GOLDEN, "max", "reciprocal"), [1, 1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(scores_of(GOLDEN, "mean", "rank"), [-2.5, -1.5, -2.5, -3.5])


@given(similarities, st.integers(1, 12), st.sampled_from(["rank", "log2", "reciprocal"]))
def test_the_top_r_agree_with_a_full_sort(matrix: np.ndarray, count: int, value: str) -> None:
    count = min(count, matrix.shape[1])
    ranks = np.minimum(ranks_by_full_sort(matrix), count + 1)
    worth = {"rank": -ranks, "log2": -np.log2(ranks), "reciprocal": 1 / ranks}[value]
    np.testing.assert_allclose(scores_of(matrix, "max", value, count), worth.max(axis=0), atol=1e-9)
    np.testing.assert_allclose(
        scores_of(matrix, "mean", value, count), worth.mean(axis=0), atol=1e-9
    )


@given(similarities, st.randoms(), st.sampled_from(["max", "mean"]))
def test_the_order_and_blocks_of_examples_change_nothing(
    matrix: np.ndarray, random: Any, aggregate: str
) -> None:
    order = list(range(len(matrix)))
    random.shuffle(order)
    with mock.patch.object(ranking, "_EXAMPLES", 1):
        shuffled = scores_of(matrix[order], aggregate, "log2")
    np.testing.assert_array_equal(shuffled, scores_of(matrix, aggregate, "log2"))


@given(similarities)
def test_a_duplicated_example_changes_nothing_under_max(matrix: np.ndarray) -> None:
    twice = np.concatenate([matrix, matrix[:1]])
    np.testing.assert_array_equal(scores_of(twice, "max", "rank"), scores_of(matrix, "max", "rank"))


@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_an_example_without_a_token_ranks_nothing(aggregate: str) -> None:
    """All documents shared its rank 1, so that every document had the best score."""
    more = np.concatenate([GOLDEN, np.zeros((1, 4), np.float32)])
    np.testing.assert_array_equal(
        scores_of(more, aggregate, "rank"), scores_of(GOLDEN, aggregate, "rank")
    )


@given(similarities, st.sampled_from(["max", "mean"]))
def test_only_ranks_count(matrix: np.ndarray, aggregate: str) -> None:
    bent = matrix.copy()
    bent[0] = np.exp(bent[0]) - 100
    np.testing.assert_array_equal(
        scores_of(bent, aggregate, "log2"), scores_of(matrix, aggregate, "log2")
    )


@given(similarities, st.integers(0, 12), st.integers(1, 12))
def test_the_top_r_of_parts_merge_into_that_of_the_whole(
    matrix: np.ndarray, at: int, count: int
) -> None:
    merged = merge_highest(highest(matrix[:, :at], count), highest(matrix[:, at:], count))
    np.testing.assert_array_equal(merged, highest(matrix, count))


@pytest.mark.parametrize("block", [700, 256, 33])
@pytest.mark.parametrize("aggregate", ["max", "mean"])
def test_a_sample_in_blocks_is_ranked_as_by_the_whole_product(
    block: int, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(700, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[[5, 300, 301]] = vectors[7]  # ties, also across blocks
    vectors[11] = 0  # a text without a token is in no top R
    documents = on_lattice(vectors)
    examples = documents[:10]
    product = examples.astype(np.float32) @ documents.astype(np.float32).T
    product[:, 11] = -np.inf
    monkeypatch.setattr(ranking, "_DOCUMENTS", block)
    ranked = rank_sample(
        examples,
        documents,
        top_r=5,
        coverage=0.2,
        aggregate=aggregate,
        value="reciprocal",
        spread=serial_map,
    )
    ranks = ranks_by_full_sort(product)
    covered = {count: np.mean(ranks.min(axis=0) <= count) for count in (5, 10, 20)}
    assert covered[10] < 0.2 <= covered[20]  # so R was doubled twice
    assert (ranked.ranker.kept, ranked.coverage) == (20, covered[20])
    np.testing.assert_array_equal(ranked.ranker.top_r, highest(product, 20))
    kept = np.minimum(ranks, 21)
    expected = -kept.min(axis=0) if aggregate == "max" else (1 / kept).mean(axis=0)
    np.testing.assert_allclose(ranked.scores, expected, atol=1e-9)
