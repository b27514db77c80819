"""Clusters: exact assignment for any batch, and k-means as good as scikit-learn's and faiss's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from penstock.errors import ArtefactError, SelectorError
from penstock.resources import Resources
from penstock.selectors.base import Fitting
from penstock.selectors.encoders.lattice import on_lattice
from penstock.selectors.kernels import kmeans as module
from penstock.selectors.kernels.kmeans import (
    Clusters,
    cluster_count,
    fit_clusters,
    has_gpu,
    lengths,
    sample_vectors,
)
from tests.pools import sampler


@pytest.fixture(autouse=True)
def one_thread_at_a_time() -> Iterator[None]:
    """Products as small as these take longest where threads have to wait for one another."""
    with threadpool_limits(1):
        yield


def directions(count: int, dim: int = 16, seed: int = 0, groups: int = 6) -> np.ndarray:
    """(n, d) int16 on the lattice, around a few directions."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, dim))
    vectors = centres[random.integers(groups, size=count)] + random.normal(size=(count, dim)) * 0.5
    return on_lattice(unit(vectors))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_brute_force(vectors: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Find the nearest centroid in integers, the first of equals."""
    x, c = vectors.astype(np.int64), clusters.centroids.astype(np.int64)
    if clusters.spherical:
        return (x @ c.T).argmax(axis=1)
    return ((x[:, None] - 2 * c) ** 2).sum(axis=2).argmin(axis=1)


@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 9), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_the_nearest_centroid_is_exact_and_of_equals_the_first(
    seed: int, spherical: bool, count: int, documents: int
) -> None:
    random = np.random.default_rng(seed)
    # Few values, so that there are ties, and as long as the lattice allows.
    corners = random.choice([-1.0, 0.0, 1.0], size=(documents + count, 4))
    corners[~corners.any(axis=1)] = 1
    lattice = on_lattice(unit(corners))
    centroids = lattice[:count] if spherical else np.rint(lattice[:count] / 2).astype(np.int16)
    clusters = Clusters(centroids=np.concatenate([centroids, centroids]), spherical=spherical)
    numbers = clusters.nearest(lattice[count:]).numbers
    np.testing.assert_array_equal(numbers, by_brute_force(lattice[count:], clusters))
    assert (numbers < count).all()  # never the copy


@pytest.mark.parametrize("spherical", [True, False])
def test_assignment_is_the_same_for_any_batch_and_thread_count(
    spherical: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = directions(3000, dim=48)
    clusters = fit_clusters(vectors, 20, spherical=spherical, iterations=5).clusters
    expected = by_brute_force(vectors, clusters)
    for threads in (1, 2):
        with threadpool_limits(threads):
            for size in (1, 7, 640, 3000):
                parts = range(0, 3000 if size > 1 else 50, size)
                ends = [slice(at, at + size) for at in parts]
                got = np.concatenate([clusters.nearest(vectors[end]).numbers for end in ends])
                np.testing.assert_array_equal(got, expected[: len(got)])
    monkeypatch.setattr(module, "_VALUES", 64 * 20)
    np.testing.assert_array_equal(clusters.nearest(vectors).numbers, expected)


@pytest.mark.parametrize("spherical", [True, False])
def test_fitting_is_lloyds_algorithm_on_integers(spherical: bool) -> None:
    vectors = directions(900, dim=12, seed=1)
    scale = 4095 - np.sqrt(12) / 2
    centroids = vectors[:7].astype(np.float64)
    if not spherical:
        centroids = np.rint(centroids / 2)
    clusters = Clusters(centroids=centroids.astype(np.int16), spherical=spherical)
    for _ in range(4):
        labels = by_brute_force(vectors, clusters)
        assert np.bincount(labels, minlength=7).all()
        means = np.stack([vectors[labels == one].mean(axis=0) for one in range(7)])
        lattice = means / np.linalg.norm(means, axis=1, keepdims=True) * scale
        rounded = np.rint(lattice if spherical else means / 2).astype(np.int16)
        clusters = Clusters(centroids=rounded, spherical=spherical)
    got = fit_clusters(vectors, 7, spherical=spherical, iterations=4)
    np.testing.assert_array_equal(got.clusters.centroids, clusters.centroids)
    np.testing.assert_array_equal(got.labels, by_brute_force(vectors, clusters))
    full = 2 - spherical
    apart = (vectors - full * clusters.centroids[got.labels].astype(float)) ** 2
    assert got.loss == pytest.approx(apart.sum() / (vectors.astype(float) ** 2).sum(), abs=1e-12)
    assert got.iterations == 4 and got.facts["sample"] == 900


def test_the_loss_is_as_low_as_that_of_scikit_learn_and_faiss() -> None:
    import faiss
    from sklearn.cluster import KMeans

    vectors = directions(3000, dim=24, groups=40, seed=3)
    points = vectors / np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1).mean())
    ours = fit_clusters(vectors, 12, spherical=False, iterations=300)
    start = points[:12]
    theirs = KMeans(12, init=start, n_init=1, max_iter=300, tol=0).fit(points)
    # From the same centres they end at the same place, but for the rounding of the centroids.
    assert ours.loss == pytest.approx(theirs.inertia_ / 3000, rel=2e-3)
    assert np.mean(theirs.labels_ == ours.labels) > 0.97

    spherical = fit_clusters(vectors, 12, spherical=True, iterations=25, restarts=3)
    options = {"niter": 25, "nredo": 3, "spherical": True, "seed": 1, "verbose": False}
    trained = faiss.Kmeans(24, 12, max_points_per_centroid=10**6, **options)
    trained.train(points.astype(np.float32))
    assert spherical.loss < 1.02 * (2 - 2 * trained.obj[-1] / 3000)


def test_restarts_keep_the_best_and_a_fixed_point_ends_iterations() -> None:
    vectors = directions(600, seed=5, groups=12)
    losses = [
        fit_clusters(np.roll(vectors, -12 * run, axis=0), 12, spherical=True, iterations=9).loss
        for run in range(4)
    ]
    assert losses.index(min(losses)) > 0  # so that the first is not the best
    best = fit_clusters(vectors, 12, spherical=True, iterations=9, restarts=4)
    assert best.loss == min(losses)
    rested = fit_clusters(vectors, 12, spherical=True, iterations=10_000)
    assert rested.iterations < 200
    again = fit_clusters(vectors, 12, spherical=True, iterations=rested.iterations)
    np.testing.assert_array_equal(rested.clusters.centroids, again.clusters.centroids)


def test_an_empty_cluster_takes_the_farthest_document() -> None:
    # The first two centres are one and the same; the third group has no centre.
    angles = np.radians([0, 0, 1, 2, 80, 81])
    vectors = on_lattice(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    got = fit_clusters(vectors, 2, spherical=True, iterations=10)
    assert got.labels.tolist() in ([0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0])
    assert len(got.clusters) == 2


def test_clusters_that_cannot_be_filled_are_dropped() -> None:
    two = np.repeat(directions(2, seed=8, groups=2), 10, axis=0)
    for spherical in (True, False):
        got = fit_clusters(two, 6, spherical=spherical, iterations=20)
        assert len(got.clusters) == 2 and got.facts["smallest_cluster"] == 10
        assert got.loss < 1e-5
        assert [len(rows) for rows in got.members()] == [10, 10]
        np.testing.assert_array_equal(got.clusters.nearest(two).numbers, got.labels)


def test_documents_that_cancel_leave_the_centroid_unchanged() -> None:
    line = on_lattice(np.array([[1, 0], [-1, 0]], np.float32))
    assert fit_clusters(line[:1], 1, spherical=True, iterations=3).loss == 0
    got = fit_clusters(line, 1, spherical=True, iterations=3)
    np.testing.assert_array_equal(got.clusters.centroids, line[:1])
    flat = fit_clusters(line, 1, spherical=False, iterations=3)
    assert not flat.clusters.centroids.any() and flat.loss == 1


def test_lengths_of_all_rows_and_of_some() -> None:
    vectors = directions(50)
    expected = np.linalg.norm(vectors.astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths(vectors), expected, rtol=1e-15)
    np.testing.assert_allclose(lengths(vectors, np.array([7, 3])), expected[[7, 3]], rtol=1e-15)


def test_the_number_of_clusters_follows_pool_and_sample() -> None:
    assert cluster_count("auto", 65_686, 65_686) == 256
    assert cluster_count("auto", 10**9, 100_000) == 2564
    assert cluster_count("auto", 30, 30) == 1
    assert cluster_count(30, 10**9, 30) == 30
    with pytest.raises(SelectorError) as info:
        cluster_count(31, 10**9, 30)
    assert (info.value.key, info.value.got) == ("clusters", "31")


class Spectrum:
    """An encoder that counts letters, so that a text without one has a zero vector."""

    name = "spectrum"
    resources = Resources()

    def encode(self, texts: pa.Array) -> np.ndarray:
        counts = [[text.count(letter) for letter in "abcd"] for text in texts.to_pylist()]
        vectors = np.array(counts, np.float32).reshape(-1, 4)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    def save(self, directory: Path) -> None: ...


def fitting_of(texts: list[str], **others: Any) -> Fitting:
    table = pa.table(
        {
            "id": [f"d{row}" for row in range(len(texts))],
            "text": pa.array(texts, pa.large_string()),
            "source": ["s"] * len(texts),
        }
    )
    spectrum = {"spectrum": Spectrum()}
    return Fitting(
        **{
            "sample": sampler(table),
            "pool_size": len(texts),
            "encoder": spectrum.__getitem__,
            **others,
        }
    )


def test_a_sample_is_ordered_by_hash_without_texts_that_have_no_token() -> None:
    texts = [f"{'a' * (row + 1)}{'b' * (41 - row)}" for row in range(40)] + [" ", "\u4e2d", ""]
    fitting = fitting_of(texts)
    vectors = sample_vectors(fitting, "spectrum", 100)
    assert vectors.dtype == np.int16 and vectors.shape == (40, 4)
    expected = on_lattice(Spectrum().encode(pa.array(texts[:40])))
    assert sorted(map(tuple, vectors)) == sorted(map(tuple, expected))
    assert not np.array_equal(vectors, expected)
    table = fitting.sample(100)
    backwards = table.take(list(range(len(texts)))[::-1])
    other = fitting_of([], sample=sampler(backwards))
    np.testing.assert_array_equal(sample_vectors(other, "spectrum", 100), vectors)
    parted = pa.concat_tables([table.slice(0, 9), table.slice(9)])
    other = fitting_of([], sample=sampler(parted))
    np.testing.assert_array_equal(sample_vectors(other, "spectrum", 100), vectors)
    other = fitting_of(texts, seed=1)
    assert not np.array_equal(sample_vectors(other, "spectrum", 100), vectors)


@pytest.mark.parametrize("texts", [[], [" ", "\U0001f9ff"]])
def test_a_sample_without_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(SelectorError) as info:
        sample_vectors(fitting_of(texts), "spectrum", 9)
    assert (info.value.key, info.value.got) == ("sample", "none")


def test_centroids_come_back_from_their_file(tmp_path: Path) -> None:
    clusters = fit_clusters(directions(40), 3, spherical=False, iterations=2).clusters
    clusters.save(tmp_path / "clusters.npy")
    loaded = Clusters.load(tmp_path / "clusters.npy", spherical=False)
    np.testing.assert_array_equal(loaded.centroids, clusters.centroids)
    assert not loaded.spherical
    for name, array in (("float", np.ones((2, 3))), ("flat", np.ones(3, np.int16))):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ArtefactError) as info:
            Clusters.load(tmp_path / f"{name}.npy", spherical=True)
        assert info.value.expected == "centroids (k, d) int16"
    (tmp_path / "text.npy").write_text("no array")
    for name in ("text", "missing"):
        with pytest.raises(ArtefactError) as info:
            Clusters.load(tmp_path / f"{name}.npy", spherical=True)
        assert info.value.file == str(tmp_path / f"{name}.npy")


# A GPU's search, on one if there is one, and otherwise played by faiss on the CPU.


def same_on(gpu: bool, spherical: bool) -> None:
    vectors = directions(2000, dim=32, groups=9, seed=2)
    fitted = [
        fit_clusters(vectors, 11, spherical=spherical, iterations=6, gpu=one)
        for one in (gpu, False)
    ]
    np.testing.assert_array_equal(fitted[0].clusters.centroids, fitted[1].clusters.centroids)
    np.testing.assert_array_equal(fitted[0].labels, fitted[1].labels)
    # Ties: every centroid twice over.
    twice = np.concatenate([fitted[1].clusters.centroids] * 2)
    clusters = Clusters(centroids=twice, spherical=spherical)
    nearest = clusters.nearest(vectors, gpu=gpu)
    np.testing.assert_array_equal(nearest.numbers, by_brute_force(vectors, clusters))
    np.testing.assert_array_equal(nearest.values, clusters.nearest(vectors).values)
    alone = Clusters(centroids=twice[:1], spherical=spherical)
    assert not alone.nearest(vectors, gpu=gpu).numbers.any()


@pytest.mark.gpu
@pytest.mark.parametrize("spherical", [True, False])
def test_a_gpu_makes_the_same_clusters(spherical: bool) -> None:
    if not has_gpu():
        pytest.skip("faiss reports no GPU (it needs faiss-gpu-cu12 and an NVIDIA GPU)")
    same_on(True, spherical)


def play(monkeypatch: pytest.MonkeyPatch, spoil: Any = lambda values: values) -> list[int]:
    """Replace faiss's GPU functions by ones on the CPU that take the higher of equal numbers."""
    import faiss

    calls: list[int] = []

    def knn_gpu(resources: object, queries: Any, base: Any, k: int, metric: int) -> tuple:
        calls.append(len(queries))
        values, numbers = faiss.knn(queries, base[::-1].copy(), k, metric=metric)
        return spoil(values), len(base) - 1 - numbers

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: None, raising=False)
    monkeypatch.setattr(faiss, "knn_gpu", knn_gpu, raising=False)
    return calls


@pytest.mark.parametrize("spherical", [True, False])
def test_ties_and_inexact_products_of_a_gpu_are_searched_again(
    spherical: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = play(monkeypatch)
    same_on(True, spherical)
    assert calls
    # One that multiplies in bfloat16, to within a few thousandths, is not believed.
    calls = play(monkeypatch, lambda values: values + np.float32(3))
    same_on(True, spherical)
    assert calls


def test_a_gpu_is_used_where_faiss_reports_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    calls = play(monkeypatch)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    assert has_gpu()
    fit_clusters(directions(50), 3, spherical=True, iterations=2)
    assert calls
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    calls.clear()
    fit_clusters(directions(50), 3, spherical=True, iterations=2)
    assert not has_gpu() and not calls
