"""GIST: the best documents of which no two are near each other.

Fahrbach et al. 2024, *GIST: Greedy Independent Set Thresholding for Max-Min Diversification with
Submodular Utility*. Of all sets S of k documents it seeks the one with the largest

    f(S) = (sum of utilities) / k + diversity * (least distance between two of S).

For each distance d of a geometric series, documents are taken by utility, the highest first, unless
one that was taken is nearer than d, until there are k; of these sets the best by f is taken.
Published: fewer than k documents are a set, too, and so is the farthest pair; then f is at least
half of the optimum, less the series' step. Here a budget is met exactly, so sets of k alone count.

Here each cluster of the pool is a partition, since documents that are near each other are mostly in
one cluster, and k is ``share`` of it. A cluster's d is that of its best set. Then the same rule
with that d goes through all of its documents. Those that it takes score by their utility, so that a
cut takes the best of all clusters. Those that it passes over come after all others, first those
that d/2 would take, then d/4 and d/8. So one column serves any budget.

Trade-off: documents in two clusters are not compared. The similarities of 8,192 documents are 256
MiB; a larger cluster is divided by hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from penstock.compiling import cached
from penstock.selectors.algorithm import BuiltInSetSelector
from penstock.selectors.base import Fitting, Partition, Requirements
from penstock.selectors.kernels.kmeans import (
    Clusters,
    cluster_count,
    fit_clusters,
    lengths,
    sample_vectors,
)
from penstock.selectors.parameters import (
    ClusterCount,
    Share,
    Text,
    Whole,
    fitted,
    recipe_default,
)

__all__ = ["Gist", "Pairs", "best_distance", "distances"]

_HALVINGS = 3
"""Halvings of the distance for documents that were passed over, before all others follow."""

_LONGEST = 89.0
"""Above log(1 + x) of any float32."""


class Gist(
    BuiltInSetSelector,
    name="gist",
    summary="the best documents of which no two are near each other",
    meaning="quality on a scale from -1 to 1, less 2 for each halving of the distance kept",
    paper="Fahrbach et al. 2024, GIST: greedy independent set thresholding",
    version=1,
    imports={"encoders": ("faiss",)},
):
    """Ranks documents by quality, those that are near a better one after all others.

    The paper's utilities are of its tasks' own, and so are their units.
    """

    quality: Text | None = Field(
        default=None,
        description="Another column, the utility; without one all documents are equal, and only "
        "distance counts. Its order is all that the choice of a distance uses: a document's "
        "utility there is its quantile within the cluster.",
    )
    share: Share = Field(
        default=0.1,
        description="k, as a share of a cluster's documents: about what the budget takes of the "
        "pool.",
    )
    diversity: Annotated[float, Field(ge=0)] = Field(
        default=0.3,
        description="The weight of the least distance, which is from 0 to 2, against the mean "
        "quantile of quality, from 0 to 1. At 0 quality alone decides. Of a tenth of 20,000 "
        "documents by nearness to ARC-Easy, 3.6 % had another with a cosine above 0.9; with 0.1, "
        "0.3 and 1 it was 2.1, 1.1 and 0.1 %, for 4, 14 and 33 % of the gain in quality over a "
        "random tenth.",
    )
    step: Share = Field(
        default=0.1,
        description="The distances that are tried are each 1 + ``step`` of the one before, from "
        "``step`` / 2 of the cluster's diameter up to it.",
    )
    clusters: ClusterCount = recipe_default(
        "auto",
        description="Their number; ``auto`` is the square root of the pool.",
    )
    sample: Whole = Field(
        default=100_000,
        description="Documents that clusters are fitted on, about.",
    )
    iterations: Whole = Field(
        default=100,
        description="Of spherical k-means, at most.",
    )
    largest: Whole = Field(
        default=8192,
        description="Documents that are compared with each other, at most: 4 bytes a pair.",
    )

    _clusters: Clusters | None = None

    @property
    def requirements(self) -> Requirements:
        return Requirements(quality=self.quality, encoder=self.encoder)

    @property
    def partitions(self) -> int:
        return len(fitted(self._clusters, self.name))

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Cluster a sample.

        Returns:
            Facts: the sample, the clusters' number and sizes in it, the loss.

        Raises:
            SelectorError: There is no text, or there are fewer documents than clusters.
        """
        self._clusters = None
        vectors = sample_vectors(fitting, self.encoder, self.sample)
        count = cluster_count(self.clusters, fitting.pool_size, len(vectors))
        fitting.progress(f"clustering {len(vectors):,} documents into {count:,}")
        found = fit_clusters(vectors, count, spherical=True, iterations=self.iterations)
        self._clusters = found.clusters
        return found.facts

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Assign to the nearest cluster, the lowest of equally near ones: (n,) int64."""
        return fitted(self._clusters, self.name).nearest(vectors).numbers

    def score(self, partition: Partition) -> np.ndarray:
        """Return utilities on one scale from -1 to 1, less 2 for each halving: (n,) float32.

        The scale is sign(q) log(1 + |q|) / 89. NaN for a document without a token or a quality.
        """
        scores = np.full(len(partition), np.nan, np.float32)
        takeable = partition.vectors.any(axis=1)
        quality = np.zeros(len(partition))
        if partition.quality is not None:
            takeable &= np.isfinite(partition.quality)
            quality = partition.quality.astype(np.float64)
        rows = np.flatnonzero(takeable)
        for start in range(0, len(rows), self.largest):
            own = rows[start : start + self.largest]  # by hash, the order of a partition
            order = own[np.argsort(-quality[own], kind="stable")]
            levels = self._levels(partition.vectors[order], quality[order])
            scale = np.sign(quality[order]) * np.log1p(np.abs(quality[order])) / _LONGEST
            scores[order] = scale - 2 * levels
        return scores

    def save(self, directory: Path) -> None:
        fitted(self._clusters, self.name).save(directory / "clusters.npy")

    def load(self, directory: Path) -> None:
        self._clusters = Clusters.load(directory / "clusters.npy", spherical=True)

    def _levels(self, vectors: np.ndarray, quality: np.ndarray) -> np.ndarray:
        """Return how often the best distance is halved before a document is taken, (n,) int64.

        Args:
            vectors: (n, d) int16 on the lattice, the best first.
            quality: (n,) float64, falling.
        """
        own = Pairs.of(vectors)
        most = math.ceil(self.share * len(vectors))
        distance = best_distance(own, _quantiles(quality), most, self.diversity, self.step)
        limits = [_limit(distance / 2**halving) for halving in range(_HALVINGS + 1)]
        levels: np.ndarray = _halvings(own.products, own.inverse, np.array(limits))
        return levels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Documents, the best first, and their similarities."""

    products: np.ndarray
    """(n, n) float32, exact."""
    inverse: np.ndarray
    """(n,) float64: 1 / length."""

    @classmethod
    def of(cls, vectors: np.ndarray) -> Pairs:
        """Compute the similarities of (n, d) int16 on the lattice, none zero."""
        floats = vectors.astype(np.float32)
        with threadpool_limits(1):
            products = floats @ floats.T
        return cls(products=products, inverse=1 / lengths(vectors))

    @property
    def diameter(self) -> float:
        """The largest distance between two documents."""
        return _distance(float(_lowest(self.products, self.inverse)))

    def independent(self, distance: float, most: int) -> tuple[np.ndarray, float]:
        """Take documents in order, none nearer than ``distance`` to one before it.

        Returns:
            (k,) int64 rows, k at most ``most``, and the least distance between two of them; the
            diameter where there is one.
        """
        rows, highest = _independent(self.products, self.inverse, _limit(distance), most)
        return rows, _distance(highest) if len(rows) > 1 else self.diameter


def distances(diameter: float, step: float) -> list[float]:
    """List the distances that are tried, rising: step/2 (1 + step)^i of the diameter."""
    count = math.floor(math.log(2 / step) / math.log1p(step)) + 1
    return [diameter * step / 2 * (1 + step) ** power for power in range(count)]


def best_distance(
    documents: Pairs, utilities: np.ndarray, most: int, diversity: float, step: float
) -> float:
    """Return the distance whose set of documents is the best, of equals the largest.

    Without a weight it is 0.

    Args:
        documents: The best first.
        utilities: (n,) float64.
        most: k.
        diversity: The weight of a distance against a mean of utilities.
        step: As in :func:`distances`.
    """
    best, found = -math.inf, 0.0
    if not diversity:
        return found
    for distance in [0.0, *distances(documents.diameter, step)]:
        rows, least = documents.independent(distance, most)
        value = math.fsum(utilities[rows].tolist()) / most + diversity * least
        if len(rows) == most and value >= best:
            best, found = value, distance
    return found


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Return the share of values below each, and half of those equal to it: (n,) float64."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - counts / 2
    result: np.ndarray = middles[places] / len(values)
    return result


def _distance(cosine: float) -> float:
    return math.sqrt(max(0.0, 2 - 2 * cosine))


def _limit(distance: float) -> float:
    """Return the cosine above which two documents are nearer; for 0, none are."""
    return 1 - distance**2 / 2 if distance else 2.0


@cached(nogil=True)
def _lowest(products: np.ndarray, inverse: np.ndarray) -> float:
    """Return the lowest cosine."""
    lowest = 1.0
    for row in range(len(inverse)):
        for column in range(row):
            lowest = min(lowest, products[row, column] * inverse[row] * inverse[column])
    return lowest


@cached(nogil=True)
def _independent(
    products: np.ndarray, inverse: np.ndarray, limit: float, most: int
) -> tuple[np.ndarray, float]:
    """Take rows in order of which no two have a cosine above a limit; return their highest."""
    taken = np.empty(min(most, len(inverse)), np.int64)
    count, highest = 0, -1.0
    for row in range(len(inverse)):
        if count == len(taken):
            break
        nearest = -1.0
        for place in range(count):
            other = taken[place]
            nearest = max(nearest, products[row, other] * inverse[row] * inverse[other])
            if nearest > limit:
                break
        if nearest <= limit:
            taken[count] = row
            count += 1
            highest = max(highest, nearest)
    return taken[:count], highest


@cached(nogil=True)
def _halvings(products: np.ndarray, inverse: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Take rows in order under each limit in turn; return the limit of each, or their number."""
    levels = np.full(len(inverse), len(limits), np.int64)
    taken = np.empty(len(inverse), np.int64)
    count = 0
    for level in range(len(limits)):
        for row in range(len(inverse)):
            if levels[row] < level:
                continue
            is_near = False
            for place in range(count):
                other = taken[place]
                if products[row, other] * inverse[row] * inverse[other] > limits[level]:
                    is_near = True
                    break
            if not is_near:
                levels[row] = level
                taken[count] = row
                count += 1
    return levels
