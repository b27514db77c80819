"""k-means of documents, with centroids on the lattice so that every assignment is exact.

Lloyd's algorithm (1982) as in faiss (Johnson et al. 2017): draw centres from the sample, then
assign and average in turn. The one change: in every iteration centroids are rounded to integers
like the documents (:func:`penstock.selectors.encoders.lattice.on_lattice`). Products are then exact
in float32, so the nearest centroid does not depend on the batch, the threads, the processor or the
library. NumPy on a CPU and faiss on a GPU make the same clusters to the last bit; faiss's own
training, with float32 centroids, does not guarantee that. Rounding costs little: over 65,686
documents the sum of squared distances was within 0.2 % of faiss's with as many clusters, less than
the difference between two seeds.

Trade-off: centres are drawn at random, not by k-means++, whose k passes over the sample give a
better start, which twenty iterations make up for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.array_files import load_array
from penstock.compiling import cached
from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_documents, mix
from penstock.selectors.base import Fitting
from penstock.selectors.encoders.embedding import CHARACTERS, embed_texts

__all__ = [
    "Clustering",
    "Clusters",
    "Nearest",
    "cluster_count",
    "fit_clusters",
    "has_gpu",
    "lengths",
    "sample_vectors",
]

_ROWS = 1 << 13
"""Documents turned into float32 at once, 8 MiB at 256 dimensions."""

_VALUES = 1 << 22
"""Products held at once on a CPU: 16 MiB."""

_ROWS_ON_GPU = 1 << 18
"""Documents of one search on a GPU: 256 MiB of float32 at 256 dimensions."""

_FOR_EACH_CLUSTER = 39
"""The least documents for each cluster of a sample; faiss warns below that number."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nearest:
    """The nearest centroid of each of n documents."""

    numbers: np.ndarray
    """(n,) int64; of centroids equally near, the lowest."""
    values: np.ndarray
    """(n,) float32, integers, higher is nearer: x·c if spherical, else x·m - m·m."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clusters:
    """k centroids; a document belongs to the nearest.

    In spherical clusters the highest x·c is nearest. In Euclidean ones the lowest ``|x - 2m|^2``
    is, which is the highest x·m - m·m: centroids are kept at half length, so that this too stays
    below 2^24 in any order of summation, by Cauchy-Schwarz 2^23 + 2^22 at most.
    """

    centroids: np.ndarray
    """(k, d) int16 on the lattice: c of a document's length, or m, half of a mean."""
    spherical: bool

    def __len__(self) -> int:
        return len(self.centroids)

    def nearest(self, vectors: np.ndarray, gpu: bool = False) -> Nearest:
        """Find the nearest centroids of (n, d) int16 on the lattice, on a GPU if ``gpu``."""
        numbers = np.empty(len(vectors), np.int64)
        values = np.empty(len(vectors), np.float32)
        search = _search_on_gpu if gpu else _search
        centroids = self.centroids.astype(np.float32)
        offsets = np.zeros(len(self), np.float32)
        if not self.spherical:
            offsets = np.einsum("kd,kd->k", centroids, centroids)
        rows = _ROWS_ON_GPU if gpu else max(64, _VALUES // len(self))
        for start in range(0, len(vectors), rows):
            block = slice(start, start + rows)
            documents = vectors[block].astype(np.float32)
            numbers[block], values[block] = search(documents, centroids, offsets)
        return Nearest(numbers=numbers, values=values)

    def save(self, path: Path) -> None:
        np.save(path, self.centroids)

    @classmethod
    def load(cls, path: Path, *, spherical: bool) -> Clusters:
        """Read what :meth:`save` wrote.

        Raises:
            ArtefactError: The file is missing or holds no centroids.
        """
        try:
            centroids = load_array(path)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"no centroids: {error}", file=path) from error
        if centroids.dtype != np.int16 or centroids.ndim != 2 or not len(centroids):
            raise ArtefactError(
                file=path,
                expected="centroids (k, d) int16",
                got=f"{centroids.shape} {centroids.dtype}",
            )
        return cls(centroids=centroids, spherical=spherical)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clustering:
    """The clustering of a sample."""

    clusters: Clusters
    labels: np.ndarray
    """(n,) int64: the cluster of each document of the sample; none is empty."""
    iterations: int
    loss: float
    """The mean of ``|x - c|^2`` over the sample, documents being of length 1."""

    @property
    def facts(self) -> dict[str, Any]:
        sizes = np.bincount(self.labels, minlength=len(self.clusters))
        return {
            "sample": len(self.labels),
            "clusters": len(self.clusters),
            "smallest_cluster": int(sizes.min()),
            "largest_cluster": int(sizes.max()),
            "iterations": self.iterations,
            "loss": round(self.loss, 4),
        }

    def members(self) -> list[np.ndarray]:
        """List the sample's rows in each cluster, ascending."""
        by_cluster = np.argsort(self.labels, kind="stable")
        ends = np.cumsum(np.bincount(self.labels, minlength=len(self.clusters)))[:-1]
        return np.split(by_cluster, ends)


# -- what is clustered --------------------------------------------------------------------------


def cluster_count(clusters: int | str, pool_size: int, sampled: int) -> int:
    """Return the number of clusters; ``auto`` is the square root of the pool's documents.

    Then there are as many clusters as documents in a cluster, so a pool ten times as large has
    clusters three times as large. There are at most as many as the sample can support.

    Raises:
        SelectorError: ``clusters`` is higher than the number of sampled documents.
    """
    if isinstance(clusters, str):
        return max(1, min(round(math.sqrt(pool_size)), sampled // _FOR_EACH_CLUSTER))
    if clusters > sampled:
        raise SelectorError(
            key="clusters",
            expected=f"at most as many as the {sampled:,} documents of the sample",
            got=f"{clusters:,}",
            fix="use a larger sample or fewer clusters",
        )
    return clusters


def sample_vectors(fitting: Fitting, encoder: str, count: int) -> np.ndarray:
    """Embed about ``count`` documents of the pool, in the order of a hash of their ids.

    Returns:
        (n, d) int16 on the lattice; texts without a token are left out.

    Raises:
        SelectorError: No document has a token.
    """
    table = fitting.sample(count, characters=CHARACTERS)
    hashes = hash_documents(table, mix(fitting.seed, "clusters"))
    model = fitting.encoder(encoder)
    fitting.progress(f"embedding {len(table):,} documents by {model.name}")
    vectors = embed_texts(table["text"], model, spread=fitting.spread)
    vectors = vectors[np.argsort(hashes, kind="stable")]
    vectors = vectors[vectors.any(axis=1)]
    if not len(vectors):
        raise SelectorError(key="sample", expected="documents with text to fit on", got="none")
    return vectors


def lengths(vectors: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Compute lengths of (n, d) int16 on the lattice, or of (m,) rows: (n,) or (m,) float64.

    Squares are integers below 2^24, so exact.
    """
    count = len(vectors) if rows is None else len(rows)
    squares = np.empty(count, np.float64)
    for start in range(0, count, _ROWS):
        own = slice(start, start + _ROWS)
        block = vectors[own if rows is None else rows[own]].astype(np.float32)
        squares[own] = np.einsum("nd,nd->n", block, block)
    return np.sqrt(squares)


# -- training -----------------------------------------------------------------------------------


def fit_clusters(
    vectors: np.ndarray,
    count: int,
    *,
    spherical: bool,
    iterations: int,
    restarts: int = 1,
    gpu: bool | None = None,
) -> Clustering:
    """Cluster a sample by k-means, until no centroid moves or all iterations are done.

    An empty cluster takes the document that is farthest from its own centroid, as in scikit-learn.
    Where documents are too similar for so many clusters, clusters that stay empty are dropped.

    Args:
        vectors: (n, d) int16 on the lattice, none zero, in an order drawn at random: the first
            ``count`` are the first centres.
        count: k, at most n.
        spherical: Whether centroids have the length of documents, as for cosines.
        iterations: The most iterations; 0 keeps the first centres.
        restarts: Draws of centres, of which the best clustering is taken, the first of equals.
        gpu: Search on a GPU with faiss; by default, if faiss reports one. The result is the same.
    """
    gpu = has_gpu() if gpu is None else gpu
    rows = np.arange(count)
    runs = [
        _lloyd(
            vectors.take(rows + run * count, axis=0, mode="wrap"),
            vectors,
            spherical,
            iterations,
            gpu,
        )
        for run in range(restarts)
    ]
    return min(runs, key=lambda run: run.loss)


def _lloyd(
    centres: np.ndarray, vectors: np.ndarray, spherical: bool, iterations: int, gpu: bool
) -> Clustering:
    clusters = Clusters(
        centroids=centres if spherical else np.rint(centres / 2).astype(np.int16),
        spherical=spherical,
    )
    squares = np.rint(lengths(vectors) ** 2).astype(np.int64)
    done = 0
    while True:
        nearest = clusters.nearest(vectors, gpu)
        distances = _squared_distances(nearest, squares, clusters)
        if done == iterations:
            break
        labels = _none_empty(nearest.numbers, distances, len(clusters))
        centroids = _averages(vectors, labels, clusters)
        if np.array_equal(centroids, clusters.centroids):
            break
        clusters = Clusters(centroids=centroids, spherical=spherical)
        done += 1
    used, labels = np.unique(nearest.numbers, return_inverse=True)
    return Clustering(
        clusters=Clusters(centroids=clusters.centroids[used], spherical=spherical),
        labels=labels.astype(np.int64),
        iterations=done,
        loss=int(distances.sum()) / int(squares.sum()),
    )


def _squared_distances(nearest: Nearest, squares: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Compute ``|x - c|^2`` to the nearest centroid, exactly: (n,) int64."""
    values = nearest.values.astype(np.int64)
    if not clusters.spherical:
        return squares - 4 * values
    own = np.rint(lengths(clusters.centroids) ** 2).astype(np.int64)
    return squares - 2 * values + own[nearest.numbers]


def _none_empty(numbers: np.ndarray, distances: np.ndarray, count: int) -> np.ndarray:
    """Give each empty cluster one of the farthest documents: (n,) int64 cluster numbers."""
    empty = np.flatnonzero(np.bincount(numbers, minlength=count) == 0)
    if not len(empty):
        return numbers
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    numbers = numbers.copy()
    numbers[farthest] = empty
    return numbers


def _averages(vectors: np.ndarray, labels: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Average each cluster's documents on the lattice, (k, d) int16; an empty one stays."""
    sums = np.zeros(clusters.centroids.shape, np.int64)
    _add_up(vectors, labels, sums)
    centroids = clusters.centroids.copy()
    if clusters.spherical:
        _point(sums, 4095 - math.sqrt(vectors.shape[1]) / 2, centroids)
    else:
        counts = np.bincount(labels, minlength=len(clusters))
        some = counts > 0
        centroids[some] = np.rint(sums[some] / (2 * counts[some, None]))
    return centroids


@cached(nogil=True)
def _add_up(vectors: np.ndarray, labels: np.ndarray, sums: np.ndarray) -> None:
    for row in range(vectors.shape[0]):
        for column in range(vectors.shape[1]):
            sums[labels[row], column] += vectors[row, column]


@cached(nogil=True)
def _point(sums: np.ndarray, scale: float, centroids: np.ndarray) -> None:
    """Scale sums to the lattice's length, adding squares in one order; zero sums are left out."""
    for row in range(sums.shape[0]):
        square = 0.0
        for column in range(sums.shape[1]):
            square += float(sums[row, column]) ** 2
        if square > 0:
            factor = scale / math.sqrt(square)
            for column in range(sums.shape[1]):
                centroids[row, column] = np.rint(sums[row, column] * factor)


# -- searching ----------------------------------------------------------------------------------


def has_gpu() -> bool:
    """Return whether faiss was built for GPUs and finds one."""
    import faiss

    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def _search(
    documents: np.ndarray, centroids: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the highest x·c - offset, of equals the lowest, and its value.

    NumPy takes as long as faiss on a CPU (65,686 documents, 256 and 1,000 centroids: 0.12 s each,
    faiss 0.18), and documents that it takes the first of equals.
    """
    products = documents @ centroids.T
    if offsets.any():
        products -= offsets
    numbers = products.argmax(axis=1)
    return numbers, products[np.arange(len(products)), numbers]


def _search_on_gpu(
    documents: np.ndarray, centroids: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Search as :func:`_search`; where the best two are equal, the CPU searches again.

    A GPU may take any of equals. One that multiplies in less than float32 returns other values; its
    result is not used.
    """
    import faiss

    # One coordinate more takes the offset into the product.
    queries = np.hstack([documents, np.ones((len(documents), 1), np.float32)])
    base = np.hstack([centroids, -offsets[:, None]])
    values, numbers = faiss.knn_gpu(
        faiss.StandardGpuResources(),
        queries,
        base,
        min(2, len(base)),
        metric=faiss.METRIC_INNER_PRODUCT,
    )
    exact = np.einsum("nd,nd->n", queries, base[numbers[:, 0]])
    if not np.array_equal(exact, values[:, 0]):
        return _search(documents, centroids, offsets)
    numbers, best = numbers[:, 0].astype(np.int64), values[:, 0].copy()
    tied = np.flatnonzero(values[:, -1] == best) if len(base) > 1 else np.empty(0, np.int64)
    numbers[tied], best[tied] = _search(documents[tied], centroids, offsets)
    return numbers, best
