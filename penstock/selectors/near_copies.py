"""Near copies: documents with an earlier, nearer document within their cluster (SemDeDup, D4).

Within each cluster, documents are put in order of their distance from the centroid, the farthest
first. One with an earlier document whose cosine with it is above 1 - ``eps`` is a near copy.

Vectors are on the lattice, so products are exact and results do not depend on blocks or threads.
They are compared in blocks of 1,024 documents by 1,024, so memory is some MiB beyond the cluster's
own vectors. One thread is used: two were slower on such blocks, and on a busy machine seven times
as slow. Trade-off: copies in different clusters are missed, as published. Time grows with the
square of a cluster, so one of more than ``largest`` documents is cut in its order into slices, each
compared within itself: copies are about equally far from the centroid (|x·c - y·c| <= sqrt(2 eps)
for unit vectors), so few are in two slices. The published code divides large clusters by position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from threadpoolctl import threadpool_limits

from penstock.compiling import cached
from penstock.errors import SelectorError
from penstock.selectors.algorithm import BuiltInSetSelector, read_json
from penstock.selectors.base import Fitting
from penstock.selectors.kernels.kmeans import (
    Clusters,
    cluster_count,
    fit_clusters,
    lengths,
    sample_vectors,
)
from penstock.selectors.parameters import ClusterCount, ModelName, Whole, fitted

__all__ = [
    "ClusterParameters",
    "Deduplicator",
    "farthest_first",
    "near_copies",
]

_BLOCK = 1024

_HALVINGS = 18
"""Bisections of eps in [0, 2], where a share is to be kept: to 1e-5, a tenth of the change of a
cosine by rounding to the lattice."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deduplicator:
    """Clusters, and what a near copy is within one."""

    clusters: Clusters
    eps: float
    """0 if nothing is a copy."""
    rule: str
    largest: int
    """Documents that are compared with each other, at most."""

    def stays(self, vectors: np.ndarray, number: int) -> np.ndarray:
        """Find the documents of a cluster that are no near copies: (n, d) int16 to (n,) bool.

        Rows are in the order of their hashes, which decides between documents equally far from
        the centroid. A zero vector does not stay.
        """
        stays = np.asarray(vectors.any(axis=1))
        if self.eps:
            order = farthest_first(vectors, self.clusters.centroids[number])
            with threadpool_limits(1):
                for start in range(0, len(order), self.largest):
                    own = order[start : start + self.largest]
                    stays[own] = ~near_copies(vectors, own, self.eps, self.rule)
        return stays


class ClusterParameters(BuiltInSetSelector):
    """What SemDeDup and D4 share: clusters of a sample, and the bound of a near copy."""

    default_bound: ClassVar[Mapping[str, float]]
    """``eps`` or ``keep``, where neither is given."""

    rule: Literal["chained", "kept"] = Field(
        default="chained",
        description="``chained``, as in the published code: an earlier document counts even if "
        "it is a near copy itself, so that a chain of similar documents shrinks to its first. "
        "Or ``kept``: only against documents that stay, so that every excluded document is near "
        "one of them. Default: chained, by which the published results were obtained, and by "
        "which a higher eps never excludes fewer. With eps of 0.05 they exclude 2.0 % and 1.8 % "
        "of the pool, with 0.3 24 % and 22 %.",
    )
    clusters: ClusterCount = Field(
        default="auto",
        description="Their number; ``auto`` is the square root of the pool. Published: 50,000 "
        "for images, 11,000 for texts.",
    )
    encoder: ModelName = Field(
        default="static",
        description="As in :mod:`penstock.selectors.encoders.embedding`. Published: OPT-125M, "
        "the last layer at the last token, for texts.",
    )
    sample: Whole = Field(
        default=100_000,
        description="Documents that clusters are fitted on, about. Clusters are a 39th of them "
        "at most, and a core compares 150 million pairs a second: of 10^9 documents, 100,000 "
        "give 2,564 clusters and 360 hours of one core, 1,000,000 a tenth of that.",
    )
    iterations: Whole = Field(
        default=100,
        description="Of spherical k-means, at most, as published.",
    )
    largest: Whole = Field(
        default=2**20,
        description="Documents of a cluster that are compared with each other, at most: an hour of "
        "one core. A larger cluster is cut into slices by distance from its centroid, and copies "
        "in two slices are missed.",
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_bound(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Use the default where neither ``eps`` nor ``keep`` is given; refuse both."""
        bounds = {key: given[key] for key in ("eps", "keep") if given.get(key) is not None}
        if len(bounds) == 2:
            raise SelectorError(key="keep", expected="eps or keep", got=bounds, fix="drop one")
        return given if bounds else {**given, **cls.default_bound}

    _deduplicator: Deduplicator | None = None

    @property
    def partitions(self) -> int:
        return len(fitted(self._deduplicator, self.name).clusters)

    def fit_copies(
        self, fitting: Fitting, eps: float | None, keep: float | None
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Cluster a sample, and find eps on it unless it is given.

        Args:
            fitting: Inputs of the fit; the pool's size sets ``clusters: auto``.
            eps: The bound of a near copy, or None.
            keep: The share to keep where eps is None; 1 is everything.

        Returns:
            (n, d) int16 vectors of the sample, which of its documents stay (n,) bool, and facts.
        """
        self._deduplicator = None
        vectors = sample_vectors(fitting, self.encoder, self.sample)
        count = cluster_count(self.clusters, fitting.pool_size, len(vectors))
        fitting.progress(f"clustering {len(vectors):,} documents into {count:,}")
        found = fit_clusters(vectors, count, spherical=True, iterations=self.iterations)
        orders = [
            rows[farthest_first(vectors[rows], centroid)]
            for rows, centroid in zip(found.members(), found.clusters.centroids)
        ]
        if eps is None:
            assert keep is not None
            if keep < 1 and len(vectors) < fitting.pool_size:
                fitting.progress(
                    f"eps is found on {len(vectors):,} of {fitting.pool_size:,} documents, which "
                    f"have fewer copies than the pool: less than {keep:g} of it will be kept"
                )
            eps = _eps_to_keep(keep, vectors, orders, self.rule) if keep < 1 else 0.0
        stays = np.ones(len(vectors), bool)
        if eps:
            stays = _staying(vectors, orders, eps, self.rule)
        self._deduplicator = self._made(found.clusters, eps)
        kept = round(float(stays.mean()), 4)
        return vectors, stays, {**found.facts, "eps": round(eps, 6), "sample_kept": kept}

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Assign to the nearest cluster, the lowest of equally near ones: (n,) int64."""
        return fitted(self._deduplicator, self.name).clusters.nearest(vectors).numbers

    def save(self, directory: Path) -> None:
        """Write ``clusters.npy`` and ``deduplicator.json``."""
        own = fitted(self._deduplicator, self.name)
        own.clusters.save(directory / "clusters.npy")
        (directory / "deduplicator.json").write_text(json.dumps({"eps": own.eps}))

    def load(self, directory: Path) -> None:
        clusters = Clusters.load(directory / "clusters.npy", spherical=True)
        eps = read_json(directory / "deduplicator.json", "eps", float)
        self._deduplicator = self._made(clusters, eps)

    def _made(self, clusters: Clusters, eps: float) -> Deduplicator:
        return Deduplicator(clusters=clusters, eps=eps, rule=self.rule, largest=self.largest)


def _staying(
    vectors: np.ndarray, orders: Sequence[np.ndarray], eps: float, rule: str
) -> np.ndarray:
    stays = np.empty(len(vectors), bool)
    with threadpool_limits(1):
        for order in orders:
            stays[order] = ~near_copies(vectors, order, eps, rule)
    return stays


def _eps_to_keep(
    keep: float, vectors: np.ndarray, orders: Sequence[np.ndarray], rule: str
) -> float:
    """Find the highest eps, by bisection, that keeps a share of the sample or more.

    Where exact copies alone are too many, it is the least that exceeds rounding.
    """
    low, high = 0.0, 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _staying(vectors, orders, middle, rule).mean() >= keep:
            low = middle
        else:
            high = middle
    return low or high


def farthest_first(vectors: np.ndarray, centroid: np.ndarray) -> np.ndarray:
    """Order rows by falling distance from the centroid, then by row; without the zero vectors.

    Args:
        vectors: (n, d) int16 on the lattice.
        centroid: (d,) int16 on the lattice.

    Returns:
        (m,) int64.
    """
    away = lengths(vectors)
    rows = np.flatnonzero(away)
    nearness = np.empty(len(rows), np.float64)
    direction = centroid.astype(np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        nearness[start : start + _BLOCK] = vectors[block].astype(np.float32) @ direction
    return rows[np.argsort(nearness / away[rows], kind="stable")]


def near_copies(vectors: np.ndarray, order: np.ndarray, eps: float, rule: str) -> np.ndarray:
    """Find the documents with an earlier one whose cosine with them is above 1 - eps.

    Args:
        vectors: (n, d) int16 on the lattice.
        order: (m,) int64, rows from the first to the last; none is a zero vector.
        eps: Above 0; at 0 rounding would decide.
        rule: ``chained``: any earlier document counts; ``kept``: only one that is no near copy.

    Returns:
        (m,) bool, along ``order``.
    """
    chained, limit = rule == "chained", 1.0 - eps
    inverse = 1.0 / lengths(vectors, order)
    copies = np.zeros(len(order), bool)
    for start in range(0, len(order), _BLOCK):
        own = slice(start, start + _BLOCK)
        block = vectors[order[own]].astype(np.float32)
        highest = np.full(len(block), -np.inf)
        earlier = np.arange(start) if chained else np.flatnonzero(~copies[:start])
        for at in range(0, len(earlier), _BLOCK):
            rows = earlier[at : at + _BLOCK]
            products = vectors[order[rows]].astype(np.float32) @ block.T
            _raise(highest, products, inverse[rows])
        copies[own] = highest * inverse[own] > limit
        _settle(copies[own], block @ block.T, inverse[own], limit, chained)
    return copies


@cached(nogil=True)
def _raise(highest: np.ndarray, products: np.ndarray, inverse: np.ndarray) -> None:
    """Raise ``highest`` (n,) float64 to each column's highest cosine times its own length."""
    for row in range(products.shape[0]):
        for column in range(products.shape[1]):
            highest[column] = max(highest[column], products[row, column] * inverse[row])


@cached(nogil=True)
def _settle(
    copies: np.ndarray, products: np.ndarray, inverse: np.ndarray, limit: float, chained: bool
) -> None:
    """Mark the near copies of a block's own documents, (n,) bool, from the first to the last."""
    for row in range(len(copies)):
        if chained or not copies[row]:
            for column in range(row + 1, len(copies)):
                if products[row, column] * inverse[row] * inverse[column] > limit:
                    copies[column] = True
