"""D4: its two halves are the methods it is made of, and both together are in the right order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from penstock.errors import SelectorError
from penstock.selectors.base import Fitting, Partition
from penstock.selectors.d4 import D4
from penstock.selectors.kernels.kmeans import fit_clusters, sample_vectors
from penstock.selectors.semdedup import SemDeDup
from tests.selectors.kernels.test_kmeans import fitting_of, unit
from tests.selectors.test_semdedup import staying


@pytest.fixture(autouse=True)
def one_thread_at_a_time() -> Iterator[None]:
    with threadpool_limits(1):
        yield


SMALL: dict[str, Any] = {"encoder": "spectrum", "clusters": 6}


def texts() -> list[str]:
    """Texts of four letters: some unlike each other, and one that comes again and again."""
    random = np.random.default_rng(3)
    parts = random.dirichlet([0.6] * 4, size=200)
    parts = np.concatenate([parts, np.tile(parts[:1], (40, 1)) + random.random((40, 4)) * 0.01])
    return ["".join(one * round(400 * part) for one, part in zip("abcd", row)) for row in parts]


@pytest.fixture(scope="module")
def fitting() -> Fitting:
    return fitting_of(texts())


def column(selector: Any, fitting: Fitting) -> tuple[np.ndarray, np.ndarray]:
    """The pool's vectors, (n, d) int16, and its scores, as the engine makes them."""
    vectors = sample_vectors(fitting, "spectrum", 0)
    hashes = np.arange(len(vectors), dtype=np.uint64)
    numbers = selector.assign(vectors, hashes)
    stays = staying(selector, vectors, numbers)
    selector.fit_survivors(selector.requirements.thinning.limit or 0.9, 240, vectors[stays])
    scores = np.full(len(vectors), np.nan, np.float32)
    for number in range(selector.partitions):
        rows = np.flatnonzero((numbers == number) & stays)
        part = Partition(number=number, hashes=hashes[rows], vectors=vectors[rows], quality=None)
        scores[rows] = selector.score(part)
    return vectors, scores


@pytest.mark.parametrize("how", [{"keep": 0.6}, {"eps": 0.01}, {"eps": 0.01, "rule": "kept"}])
def test_without_dropped_prototypes_it_is_semdedup(fitting: Fitting, how: dict[str, Any]) -> None:
    both, alone = D4(**how, **SMALL), SemDeDup(**how, **SMALL)
    assert both.fit(fitting) == alone.fit(fitting)
    scores, others = column(both, fitting)[1], column(alone, fitting)[1]
    # A budget for all survivors takes the same documents.
    np.testing.assert_array_equal(np.isnan(scores), np.isnan(others))
    assert 40 <= np.isnan(scores).sum() < 200


def test_without_deduplication_it_is_ssl_prototypes(fitting: Fitting) -> None:
    selector = D4(keep=1, **SMALL)
    selector.fit(fitting)
    assert selector.fit_survivors(np.inf, 240, sample_vectors(fitting, "spectrum", 0))["eps"] == 0
    vectors, scores = column(selector, fitting)
    # Sorscher et al.: k-means of all, and the distance of each to the nearest centroid.
    clusters = fit_clusters(vectors, 6, spherical=True, iterations=100).clusters
    cosines = unit(vectors.astype(np.float64)) @ unit(clusters.centroids.astype(np.float64)).T
    np.testing.assert_allclose(scores, 1 - cosines.max(axis=1), atol=1e-3)
    assert np.argmin(scores) in np.argsort(1 - cosines.max(axis=1))[:3]


def test_prototypes_are_those_of_the_survivors(fitting: Fitting) -> None:
    selector = D4(eps=0.01, **SMALL)
    selector.fit(fitting)
    vectors, scores = column(selector, fitting)
    left = vectors[~np.isnan(scores)]
    # The sample is the pool here, so the survivors are clustered anew just as they are.
    again = fit_clusters(left, 6, spherical=True, iterations=100).clusters
    cosines = unit(left.astype(np.float64)) @ unit(again.centroids.astype(np.float64)).T
    np.testing.assert_allclose(scores[~np.isnan(scores)], 1 - cosines.max(axis=1), atol=1e-3)
    # With the copies a sixth of the pool, one of the first centroids was theirs alone; now none.
    first = fit_clusters(vectors, 6, spherical=True, iterations=100).clusters
    copied = vectors[np.isnan(scores)].astype(np.float64)
    nearness = [
        (unit(copied) @ unit(clusters.centroids.astype(np.float64)).T).max(axis=1).mean()
        for clusters in (first, again)
    ]
    assert nearness[0] > nearness[1] + 0.005


def test_a_budget_takes_the_farthest_first(fitting: Fitting) -> None:
    selector = D4(**SMALL)
    selector.fit(fitting)
    _, scores = column(selector, fitting)
    assert (~np.isnan(scores)).sum() == 180  # 0.75, as published
    taken = np.argsort(-scores, kind="stable")[: int((~np.isnan(scores)).sum() * 0.5)]
    dropped = np.setdiff1d(np.flatnonzero(~np.isnan(scores)), taken)
    assert scores[taken].min() >= scores[dropped].max()
    assert np.nanmin(scores) >= -1e-6 and np.nanmax(scores) <= 2
    assert not (scores == np.inf).any()  # all were in some partition


def test_documents_without_a_token_are_excluded(fitting: Fitting) -> None:
    for how in ({"keep": 1}, {"keep": 0.5}):
        selector = D4(**how, **SMALL)
        selector.fit(fitting)
        vectors = np.zeros((3, 4), np.int16)
        vectors[1] = 2000
        assert staying(selector, vectors, np.zeros(3, np.int64)).tolist() == [False, True, False]


def test_save_and_load(fitting: Fitting, tmp_path: Path) -> None:
    selector = D4(**SMALL)
    selector.fit(fitting)
    assert selector.kind == "set"
    selector.save(tmp_path)
    loaded = D4(**SMALL)
    with pytest.raises(SelectorError) as info:
        loaded.save(tmp_path)
    assert info.value.expected == "a fitted selector"
    loaded.load(tmp_path)
    assert column(loaded, fitting)[1].tobytes() == column(selector, fitting)[1].tobytes()


def test_fewer_survivors_than_clusters_are_clusters_of_one() -> None:
    selector = D4(encoder="spectrum", clusters=40)
    fitting = fitting_of(texts()[:10] * 20)
    assert selector.fit(fitting)["clusters"] == 10
    _, scores = column(selector, fitting)
    assert len(selector._survivors or ()) == 10 == (~np.isnan(scores)).sum()
    assert np.nanmax(scores) == pytest.approx(0, abs=1e-6)
    with pytest.raises(SelectorError) as info:
        selector.fit_survivors(0.9, 0, np.empty((0, 4), np.int16))
    assert info.value.key == "sample"


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"keep": 1.1}, "keep"),
        ({"keep": 0}, "keep"),
        ({"keep": True}, "keep"),
        ({"eps": 0}, "eps"),
        ({"eps": 0.1, "keep": 0.5}, "keep"),
        ({"rule": "paper"}, "rule"),
        ({"clusters": 1.5}, "clusters"),
        ({"encoder": ""}, "encoder"),
        ({"sample": 0}, "sample"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_parameters_are_checked_when_it_is_built(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(SelectorError) as info:
        D4(**parameters)
    assert info.value.key == key


def test_identity_is_the_parameters() -> None:
    identity = D4().identity()
    assert identity["keep"] == 0.75 and identity["eps"] is None
    assert not any(name.endswith("_") for name in identity)
    assert D4(keep=1).identity() != identity != D4(eps=0.3).identity()
