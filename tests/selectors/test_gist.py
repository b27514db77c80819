"""GIST: independent sets by brute force, the best distance, and levels of what is passed over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from penstock.errors import SelectorError
from penstock.selectors.base import Partition
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.gist import Gist, Pairs, best_distance, distances
from penstock.selectors.kernels.kmeans import Clusters
from tests.selectors.kernels.test_kmeans import directions, fitting_of, unit


@pytest.fixture(autouse=True)
def one_thread_at_a_time() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def angles(*degrees: float) -> np.ndarray:
    """(n, 2) int16 on the lattice."""
    radians = np.radians(degrees)
    return on_lattice(np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32))


def apart(vectors: np.ndarray) -> np.ndarray:
    """Euclidean distances of unit vectors, (n, n) float64."""
    rows = vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.sqrt(((rows[:, None] - rows) ** 2).sum(axis=2))


def greedy(vectors: np.ndarray, distance: float, most: int) -> list[int]:
    """Take the best first; an independent reference."""
    between = apart(vectors)
    taken: list[int] = []
    for row in range(len(vectors)):
        if len(taken) < most and all(between[row, one] >= distance for one in taken):
            taken.append(row)
    return taken


def test_an_independent_set_by_hand() -> None:
    """At 5 degrees two unit vectors are .087 apart, at 60 one."""
    own = Pairs.of(angles(0, 5, 60, 62, 180))
    assert own.diameter == pytest.approx(2, abs=1e-3)
    assert own.independent(0, 5)[0].tolist() == [0, 1, 2, 3, 4]
    rows, least = own.independent(0.1, 5)
    assert rows.tolist() == [0, 2, 4] and least == pytest.approx(1, abs=1e-3)
    assert own.independent(0.05, 2)[0].tolist() == [0, 1]
    assert own.independent(1.5, 5)[0].tolist() == [0, 4]


@given(st.integers(0, 2**32), st.integers(1, 40), st.floats(0, 1.9))
@settings(max_examples=60)
def test_independent_sets_are_those_of_brute_force(seed: int, count: int, distance: float) -> None:
    vectors = directions(count, dim=6, seed=seed)
    most = 1 + seed % count
    rows, least = Pairs.of(vectors).independent(distance, most)
    between = apart(vectors)
    near = np.abs(between - distance).min() < 1e-9  # decided by rounding
    assert near or rows.tolist() == greedy(vectors, distance, most)
    if len(rows) > 1:
        own = between[np.ix_(rows, rows)][~np.eye(len(rows), dtype=bool)]
        assert least == pytest.approx(own.min(), abs=1e-6) and least >= distance - 1e-9


def test_the_distances_are_the_papers_series() -> None:
    found = distances(2.0, 0.1)
    assert found[0] == pytest.approx(0.1) and found[1] / found[0] == pytest.approx(1.1)
    assert 2.0 / 1.1 < found[-1] <= 2.0 and len(found) == 32


@given(st.integers(0, 2**32), st.floats(0, 3))
@settings(max_examples=30)
def test_the_best_set_is_the_best_of_all_tried(seed: int, diversity: float) -> None:
    vectors = directions(30, dim=5, seed=seed)
    own, utilities = Pairs.of(vectors), np.sort(np.random.default_rng(seed).random(30))[::-1]

    def value(distance: float) -> float:
        rows = greedy(vectors, distance, 6)
        between = apart(vectors)[np.ix_(rows, rows)]
        if len(rows) < 6:
            return -math.inf
        least = between[~np.eye(6, dtype=bool)].min()
        return float(utilities[rows].sum() / 6 + diversity * least)

    tried = {distance: value(distance) for distance in [0.0, *distances(own.diameter, 0.2)]}
    found = best_distance(own, utilities, 6, diversity, 0.2)
    assert tried[found] == pytest.approx(max(tried.values()), abs=1e-6)


def gist(**parameters: Any) -> Gist:
    """As if fitted, with one cluster."""
    selector = Gist(**parameters)
    selector._clusters = Clusters(centroids=angles(0), spherical=True)
    return selector


def partition(vectors: np.ndarray, quality: Any = None) -> Partition:
    return Partition(
        number=0,
        hashes=np.arange(len(vectors), dtype=np.uint64),
        vectors=vectors,
        quality=None if quality is None else np.asarray(quality, np.float32),
    )


def ranked(selector: Gist, part: Partition) -> list[int]:
    scores = selector.score(part)
    order = np.argsort(-scores, kind="stable")
    return order[~np.isnan(scores[order])].tolist()


def test_what_is_near_a_better_document_comes_after_all_others() -> None:
    vectors = angles(0, 1, 2, 90, 91, 180, 182, 270)
    quality = [8, 7, 6, 5, 4, 3, 2, 1]
    # Four of eight: the best four are within two degrees; one of each corner is 1.41 apart.
    assert ranked(gist(share=0.5, diversity=1.0), partition(vectors, quality))[:4] == [0, 3, 5, 7]
    # Without diversity the order is that of quality.
    assert ranked(gist(share=0.5, diversity=0), partition(vectors, quality)) == [*range(8)]
    # Documents without a vector or a quality are never taken.
    vectors[3], quality[5] = 0, np.nan
    scores = gist(share=0.5).score(partition(vectors, quality))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 5]


@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
@settings(max_examples=30)
def test_levels_are_those_of_brute_force(seed: int, count: int, with_quality: bool) -> None:
    random = np.random.default_rng(seed)
    vectors = directions(count, dim=4, seed=seed)
    quality = np.round(random.normal(size=count) * 3).astype(np.float32)  # with ties
    quality *= with_quality
    order = np.argsort(-quality, kind="stable")
    utilities = (rankdata(quality[order]) - 0.5) / count
    own, most = vectors[order], math.ceil(0.2 * count)
    distance = best_distance(Pairs.of(own), utilities, most, 0.3, 0.1)
    between, expected = apart(own), np.full(count, 4)
    near = False
    for level in range(4):
        near |= np.abs(between - distance / 2**level).min() < 1e-9  # decided by rounding
        for row in np.flatnonzero(expected == 4):
            if (between[row, expected < 4] >= distance / 2**level).all():
                expected[row] = level
    scores = gist(share=0.2).score(partition(vectors, quality if with_quality else None))[order]
    scale = np.sign(quality[order]) * np.log1p(np.abs(quality[order])) / 89
    assert near or np.allclose(scores, scale - 2 * expected, atol=1e-6)
    assert (expected == 0).sum() >= most


def test_qualities_of_any_unit_keep_their_order() -> None:
    """Ranks down to -100,000 and losses near 1e-6 stay apart in one float32."""
    vectors = directions(2000, dim=8)
    for quality in (-np.arange(2000.0) * 50, 3 + np.arange(2000.0) * 1e-5, np.arange(2000) * 1e-6):
        scores = gist(diversity=0, largest=2000).score(partition(vectors, quality))
        values = quality.astype(np.float32)
        assert len(np.unique(scores)) >= 0.99 * len(np.unique(values))
        assert (np.diff(scores[np.argsort(values, kind="stable")]) >= 0).all()


def test_a_large_cluster_is_divided_by_hash() -> None:
    vectors = np.concatenate([angles(0, 90, 180, 270)] * 2)
    scores = gist(share=0.9, largest=4).score(partition(vectors))
    assert (scores == 0).all()  # its copy is in the other part
    assert sorted(gist(share=0.4).score(partition(vectors)).tolist()) == [-8.0] * 4 + [0.0] * 4


def test_fit_save_and_load(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    parts = random.dirichlet([0.6] * 4, size=90)
    texts = ["".join(one * round(90 * part) for one, part in zip("abcd", row)) for row in parts]
    selector = Gist(encoder="spectrum", clusters=5)
    facts = selector.fit(fitting_of(texts))
    assert facts["clusters"] == selector.partitions == 5
    selector.save(tmp_path)
    loaded = Gist(encoder="spectrum", clusters=5)
    with pytest.raises(SelectorError):
        loaded.save(tmp_path)
    loaded.load(tmp_path)
    vectors = on_lattice(unit(parts))
    hashes = np.arange(90, dtype=np.uint64)
    numbers = selector.assign(vectors, hashes)
    np.testing.assert_array_equal(loaded.assign(vectors, hashes), numbers)
    assert selector.requirements.quality is None
    assert Gist(quality="betr").requirements.quality == "betr"


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"share": 0}, "share"),
        ({"share": 1}, "share"),
        ({"diversity": -1}, "diversity"),
        ({"step": 0}, "step"),
        ({"clusters": 0}, "clusters"),
        ({"largest": 0}, "largest"),
        ({"quality": ""}, "quality"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        Gist(**parameters)
    assert info.value.key == key
