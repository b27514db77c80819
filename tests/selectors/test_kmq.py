"""kMQ: cluster budgets at every budget, draws by quality, and the refinement of weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from penstock.errors import SelectorError
from penstock.selectors.base import Partition
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.kernels.kmeans import Clusters, fit_clusters
from penstock.selectors.kmq import Kmq, refine, silhouette
from tests.selectors.kernels.test_kmeans import directions, fitting_of


@pytest.fixture(autouse=True)
def one_thread_at_a_time() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def partition(
    count: int, quality: Sequence[float] | None = None, number: int = 0, seed: int = 0
) -> Partition:
    """One cluster, the whole pool; what is drawn depends on the hashes, so on the seed."""
    random = np.random.default_rng([seed, number])
    hashes = np.sort(random.integers(0, 2**64, size=count, dtype=np.uint64))
    return Partition(
        number=number,
        hashes=hashes,
        vectors=np.full((count, 2), 100, np.int16),
        quality=None if quality is None else np.asarray(quality, np.float32),
        quality_scale=1.0 if quality is None else scale_of(quality),
    )


def scale_of(quality: Sequence[float]) -> float:
    finite = np.asarray(quality, np.float64)
    low, high = np.quantile(finite[np.isfinite(finite)], [0.25, 0.75])
    return float((high - low) / 1.349)


def kmq(clusters: int = 1, **parameters: Any) -> Kmq:
    """As if fitted."""
    selector = Kmq(**parameters)
    centroids = np.full((clusters, 2), 100, np.int16)
    selector._clusters = Clusters(centroids=centroids, spherical=selector.metric == "spherical")
    return selector


def taken(selector: Kmq, parts: Sequence[Partition], budget: int) -> list[int]:
    """Count the documents of each partition among the best ``budget``, ties by hash."""
    scores = np.concatenate([selector.score(part) for part in parts])
    hashes = np.concatenate([part.hashes for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.lexsort((hashes, -scores))
    order = order[~np.isnan(scores[order])][:budget]
    return np.bincount(owner[order], minlength=len(parts)).tolist()


def drawn(selector: Kmq, part: Partition) -> list[int]:
    """Places in the partition, the first drawn first."""
    scores = selector.score(part)
    order = np.argsort(-scores, kind="stable")
    return order[~np.isnan(scores[order])].tolist()


SIZES = (60, 29, 10, 1)


def parts_of(sizes: Sequence[int], seed: int = 0) -> list[Partition]:
    return [partition(size, number=at, seed=seed) for at, size in enumerate(sizes)]


def test_proportional_budgets_are_met_at_every_budget() -> None:
    selector = kmq(4)
    parts = parts_of(SIZES)
    for budget in range(101):
        exact = budget * np.array(SIZES) / 100
        assert np.abs(np.array(taken(selector, parts, budget)) - exact).max() < 2
    assert taken(selector, parts, 100) == list(SIZES)


def test_a_small_cluster_is_at_no_disadvantage() -> None:
    lots = [taken(kmq(4), parts_of(SIZES, seed), 20) for seed in range(400)]
    # 20 of 100: every cluster gives a fifth on average, also the one of a single document.
    np.testing.assert_allclose(np.mean(lots, axis=0), np.array(SIZES) / 5, atol=0.1)
    assert {lot[3] for lot in lots} == {0, 1}


def test_equal_budgets_pass_on_the_rest_of_small_clusters() -> None:
    selector = kmq(4, budget="equal")
    sizes = (100, 80, 5, 20)
    for budget in (3, 8, 20, 50, 95, 150, 205):
        got = taken(selector, parts_of(sizes), budget)
        # Water poured into vessels: the same level in each that is not full.
        level = max(got)
        assert sum(got) == budget
        assert all(size == have or level - have <= 1 for size, have in zip(sizes, got))


def test_weights_are_the_budgets() -> None:
    parts = parts_of((500, 500, 500, 20))
    selector = kmq(4, budget="equal", weights=[0.6, 0.3, 0.0, 0.1])
    assert np.abs(np.array(taken(selector, parts, 100)) - [60, 30, 0, 10]).max() <= 1
    # The last has 20 of the 50 that are its due; the third is never taken, not even at the end.
    assert np.abs(np.array(taken(selector, parts, 500)) - [320, 160, 0, 20]).max() <= 1
    assert taken(selector, parts, 10_000) == [500, 500, 0, 20]
    # Proportional budgets are multiplied.
    selector = kmq(2, weights=[3, 1])
    got = taken(selector, parts_of((100, 300)), 60)
    assert np.abs(np.array(got) - [30, 30]).max() <= 1
    # Only their proportions count, and equal ones count for nothing.
    again = kmq(2, weights=[0.75, 0.25])
    np.testing.assert_allclose(again.score(parts[0]), 4 * selector.score(parts[0]), rtol=1e-6)
    assert taken(kmq(4, weights=[7] * 4), parts, 321) == taken(kmq(4), parts, 321)


def chi_square(counts: Sequence[int], chances: Sequence[float]) -> float:
    expected = np.array(chances) * sum(counts)
    return float(((np.array(counts) - expected) ** 2 / expected).sum())


TRIALS = 3000


def test_one_cluster_is_sampling_by_quality() -> None:
    quality = [0.0, 1.0, 2.0, -1.0]
    selector = kmq(quality="deita", standardise=False, temperature=0.8)
    pairs = Counter(
        tuple(drawn(selector, partition(4, quality, seed=seed))[:2]) for seed in range(TRIALS)
    )
    weights = np.exp(np.array(quality) / 0.8)
    every = list(itertools.permutations(range(4), 2))
    chances = [
        weights[a] / weights.sum() * weights[b] / (weights.sum() - weights[a]) for a, b in every
    ]
    # Twelve outcomes, so eleven degrees of freedom: 31.3 is the point of one in a thousand.
    assert chi_square([pairs[pair] for pair in every], chances) < 31.3


def test_equal_quality_is_random_sampling_within_each_cluster() -> None:
    orders = Counter(tuple(drawn(kmq(), partition(3, seed=seed))) for seed in range(TRIALS))
    every = list(itertools.permutations(range(3)))
    assert chi_square([orders[one] for one in every], [1 / 6] * 6) < 20.5
    for replace in (False, True):
        for part in parts_of(SIZES):
            same = Partition(
                number=part.number,
                hashes=part.hashes,
                vectors=part.vectors,
                quality=np.full(len(part), 7.5, np.float32),
                quality_scale=0.0,
            )
            with_quality = kmq(4, quality="any", replace=replace)
            np.testing.assert_array_equal(
                with_quality.score(same), kmq(4, replace=replace).score(part)
            )


def test_with_replacement_takes_the_same_documents_later() -> None:
    random = np.random.default_rng(5)
    quality = random.normal(size=40)
    selector = kmq(quality="q", replace=True)
    without = kmq(quality="q")
    part = partition(40, quality)
    assert drawn(selector, part) == drawn(without, part)
    later = selector.score(part) / without.score(part)
    assert later.min() >= 1 - 1e-6 and later.max() > 2


def test_with_replacement_finds_as_many_documents_as_a_multinomial_draw() -> None:
    quality = np.array([3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.0, 0.0, -1.0, -2.0])
    selector = kmq(quality="q", replace=True, standardise=False, budget="equal")
    weights = np.exp(quality) / np.exp(quality).sum()
    distinct = np.zeros((800, 3))
    for trial in range(800):
        scores = selector.score(partition(10, quality, seed=trial))
        # The first draw is due at 1 less a part of one, the same for all documents.
        draws = np.rint(-scores - (-scores.max()) + 1)
        distinct[trial] = [(draws <= budget).sum() for budget in (2, 6, 20)]
    expected = [(1 - (1 - weights) ** budget).sum() for budget in (2, 6, 20)]
    np.testing.assert_allclose(distinct.mean(axis=0), expected, atol=0.12)


def test_documents_without_token_or_quality_are_excluded_and_not_counted() -> None:
    part = partition(12, np.arange(12.0))
    part.vectors[[2, 5]] = 0
    part.quality[[7, 8, 9]] = [np.nan, np.inf, -np.inf]
    scores = kmq(quality="q").score(part)
    gone = [2, 5, 7, 8, 9]
    assert np.flatnonzero(np.isnan(scores)).tolist() == gone
    # Seven are left: the cluster is used up where its whole share is asked for.
    steps = np.diff(np.sort(scores[~np.isnan(scores)]))
    np.testing.assert_allclose(steps, 1 / 7, rtol=1e-5)
    assert -1 <= scores[~np.isnan(scores)].min() < -6 / 7
    without = kmq().score(part)
    assert np.flatnonzero(np.isnan(without)).tolist() == [2, 5]
    part.vectors[:] = 0
    assert np.isnan(kmq().score(part)).all()
    assert kmq().score(partition(0)).shape == (0,)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=12),
    st.floats(0.01, 100),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_neither_unit_nor_origin_of_the_quality_counts(
    quality: list[float], unit: float, seed: int
) -> None:
    selector = kmq(quality="q", temperature=0.5)
    whole = np.rint(np.array(quality) * 4) / 4  # far from rounding
    bent = (whole.astype(np.float32) * 8 + 1024).astype(np.float32)
    order = drawn(selector, partition(len(whole), whole, seed=seed))
    assert drawn(selector, partition(len(whole), bent, seed=seed)) == order
    raw = kmq(quality="q", temperature=0.5 * unit, standardise=False)
    assert sorted(drawn(raw, partition(len(whole), whole, seed=seed))) == sorted(order)


def test_a_low_temperature_takes_the_best_and_a_high_one_anything() -> None:
    quality = np.arange(200.0)
    part = partition(200, quality)
    assert drawn(kmq(quality="q", temperature=1e-4), part) == list(range(200))[::-1]
    anything = drawn(kmq(quality="q", temperature=1e6), part)
    assert anything == drawn(kmq(), part)
    between = drawn(kmq(quality="q"), part)[:20]
    assert between != list(range(200))[:-21:-1] and np.mean(between) > 130


def preference(selector: Kmq, quality: np.ndarray, scale: float) -> float:
    """The mean place in quality, from 0 to 1, of the first half that is drawn."""
    places = np.argsort(np.argsort(quality)) / (len(quality) - 1)
    first = [
        drawn(
            selector,
            dataclasses.replace(partition(len(quality), quality, seed=seed), quality_scale=scale),
        )
        for seed in range(40)
    ]
    return float(np.mean([places[one[: len(quality) // 2]].mean() for one in first]))


def test_qualities_of_all_clusters_have_one_scale() -> None:
    quality = np.random.default_rng(4).normal(size=100)
    selector = kmq(2, quality="q")
    assert preference(selector, quality, 1.0) > 0.6
    # (The code before divided by the own spread of each cluster, so this was as above.)
    assert preference(selector, 1e-6 * quality, 1.0) == pytest.approx(0.5, abs=0.02)
    # (And here one document made the spread.)
    quality[7] = 1e6
    assert preference(selector, quality, 1.0) > 0.6


def test_scores_are_finite_however_far_apart_qualities_are() -> None:
    quality = np.array([3e38, -3e38, 0, 1, -1, 1e30], np.float32)
    for parameters in ({}, {"standardise": False}, {"temperature": 1e-9}, {"weights": [1e-300]}):
        for replace in (False, True):
            scores = kmq(quality="q", replace=replace, **parameters).score(partition(6, quality))
            assert np.isfinite(scores).all() and scores.dtype == np.float32
            assert scores.argmax() == 0


def test_scores_depend_on_the_partition_alone() -> None:
    quality = np.linspace(0, 1, 50)
    selector = kmq(quality="q", replace=True)
    one = selector.score(partition(50, quality, seed=1))
    assert selector.score(partition(50, quality, seed=1)).tobytes() == one.tobytes()
    assert selector.score(partition(50, quality, seed=2)).tobytes() != one.tobytes()


# Refinement


def test_golden_refinement_of_weights() -> None:
    np.testing.assert_allclose(refine([0.5, 0.5], [0.3, 0.1], 0.2 / np.log(3)), [0.75, 0.25])
    np.testing.assert_allclose(refine([0.5, 0.5], [1.3, 1.1], 0.2 / np.log(3)), [0.75, 0.25])
    # Rounds add up: two of them are one of twice the signal.
    twice = refine(refine([1, 2, 3], [0.1, -0.4, 0.2]), [0.1, -0.4, 0.2])
    np.testing.assert_allclose(twice, refine([1, 2, 3], [0.2, -0.8, 0.4]))
    assert refine([1, 2, 3], [-5, -5, -5]).tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2])


def test_refinement_is_finite_and_keeps_zero_weights() -> None:
    after = refine([0, 1, 1], [1e300, 1e6, -1e6])
    assert after.tolist() == [0, 1, 0]
    kmq(3, weights=after.tolist())


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (([1, 1], [0.3]), "signals"),
        (([1, 1], [0.3, float("nan")]), "signals"),
        (([1, -1], [0.3, 0.1]), "weights"),
        (([0, 0], [0.3, 0.1]), "weights"),
        (([1, 1], [0.3, 0.1], 0), "temperature"),
    ],
)
def test_refinement_refuses_bad_signals(arguments: Any, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        refine(*arguments)
    assert info.value.key == key


# Fitting


def test_silhouettes_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import silhouette_score

    vectors = directions(300, groups=4, seed=2)
    for count in (2, 5, 40):
        labels = fit_clusters(vectors, count, spherical=False, iterations=5).labels
        labels[17] = labels.max() + 1  # alone
        expected = silhouette_score(vectors.astype(np.float64), labels)
        assert silhouette(vectors, labels) == pytest.approx(expected, abs=1e-4)
    assert silhouette(vectors, np.zeros(300, np.int64)) == 0


def texts_of(groups: int, each: int) -> list[str]:
    """Texts of as many directions in the space of four letters."""
    random = np.random.default_rng(1)
    counts = [np.roll([40, 0, 0, 0], at % 4) for at in range(groups)]
    noise = random.integers(0, 4, size=(groups * each, 4))
    return [
        "".join(letter * number for letter, number in zip("abcd", counts[row % groups] + extra))
        for row, extra in enumerate(noise)
    ]


def test_a_fit_finds_the_clusters_that_the_silhouette_prefers(tmp_path: Path) -> None:
    selector = Kmq(clusters=[2, 3, 8], encoder="spectrum", metric="spherical", restarts=4)
    fitting = fitting_of([*texts_of(3, 60), " "])
    facts = selector.fit(fitting)
    assert selector.kind == "set" and selector.partitions == 3
    figures = {one["clusters"]: one["silhouette"] for one in facts["silhouettes"]}
    assert list(figures) == [2, 3, 8] and max(figures, key=figures.get) == 3
    assert (facts["clusters"], facts["sample"], facts["smallest_cluster"]) == (3, 180, 60)

    vectors = on_lattice(np.eye(4, dtype=np.float32)[:3])
    hashes = np.arange(3, dtype=np.uint64)
    placed = selector.assign(vectors, hashes)
    assert sorted(placed.tolist()) == [0, 1, 2]
    selector.save(tmp_path)
    loaded = Kmq(clusters=[2, 3, 8], encoder="spectrum", metric="spherical", restarts=4)
    for unfitted in (lambda: loaded.partitions, lambda: loaded.assign(vectors, hashes)):
        with pytest.raises(SelectorError) as info:
            unfitted()
        assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path)
    np.testing.assert_array_equal(loaded.assign(vectors, hashes), placed)
    part = partition(9)
    assert loaded.score(part).tobytes() == selector.score(part).tobytes()


def test_the_default_number_of_clusters_is_the_root_of_the_pool() -> None:
    texts = texts_of(4, 100)
    assert Kmq(encoder="spectrum").fit(fitting_of(texts, pool_size=25))["clusters"] == 5
    assert Kmq(encoder="spectrum", clusters=7).fit(fitting_of(texts))["clusters"] == 7
    with pytest.raises(SelectorError) as info:
        Kmq(encoder="spectrum", clusters=9).fit(fitting_of(texts[:8]))
    assert info.value.key == "clusters"


def test_weights_must_be_those_of_the_clusters() -> None:
    selector = Kmq(encoder="spectrum", clusters=4, weights=[1, 2, 3])
    with pytest.raises(SelectorError) as info:
        selector.fit(fitting_of(texts_of(4, 20)))
    assert info.value.key == "weights"
    assert selector._clusters is None


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"quality": ""}, "quality"),
        ({"quality": 3}, "quality"),
        ({"budget": "fair"}, "budget"),
        ({"replace": "no"}, "replace"),
        ({"temperature": 0}, "temperature"),
        ({"standardise": 1}, "standardise"),
        ({"weights": []}, "weights"),
        ({"weights": 3}, "weights"),
        ({"weights": ["a"]}, "weights"),
        ({"weights": [1, float("inf")]}, "weights"),
        ({"clusters": "few"}, "clusters"),
        ({"clusters": []}, "clusters"),
        ({"clusters": [4, 0]}, "clusters"),
        ({"metric": "cosine"}, "metric"),
        ({"encoder": 1}, "encoder"),
        ({"sample": 0}, "sample"),
        ({"iterations": 0}, "iterations"),
        ({"restarts": 1.5}, "restarts"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict, key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Kmq(**parameters)
    assert info.value.key == key


def test_identity_is_the_parameters_and_changes_with_each() -> None:
    one = Kmq(weights=[1, 2]).identity()
    assert one["clusters"] == ["auto"] and one["weights"] == [1.0, 2.0]
    assert not any(name.endswith("_") for name in one)
    assert Kmq(weights=[1, 2], replace=True).identity() != one
