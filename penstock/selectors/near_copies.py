"""Near copies: documents with an earlier, nearer document within their cluster (SemDeDup, D4).

Within each cluster, documents are put in order of their distance from the centroid, the farthest
first. A document's nearness is its highest cosine with an earlier one; above 1 - ``eps`` it is a
near copy. The engine leaves near copies out (:class:`penstock.selectors.base.Thinning`), and finds
eps for a share to keep on the whole clusters of the whole pool. On a sample, in which a document
has fewer copies, eps for 0.75 of a tenth of a pool kept 0.55 of it.

Vectors are on the lattice, so products are exact and results do not depend on blocks or threads.
They are compared in blocks of 1,024 documents by 1,024, so memory is some MiB beyond the cluster's
own vectors. One thread is used: two were slower on such blocks, and on a busy machine seven times
as slow. Trade-off: copies in different clusters are missed, as published. Time grows with the
square of a cluster, so one of more than ``largest`` documents is cut in its order into slices, each
compared within itself: copies are about equally far from the centroid (|x·c - y·c| <= sqrt(2 eps)
for unit vectors), so few are in two slices. The published code divides large clusters by position.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from threadpoolctl import threadpool_limits

from penstock.compiling import cached
from penstock.errors import SelectorError
from penstock.selectors.algorithm import BuiltInSetSelector
from penstock.selectors.base import Fitting, Partition, Requirements, Thinning
from penstock.selectors.kernels.kmeans import (
    Clusters,
    cluster_count,
    fit_clusters,
    lengths,
    sample_vectors,
)
from penstock.selectors.parameters import ClusterCount, EncoderModel, Whole, fitted

__all__ = ["ClusterParameters", "farthest_first", "nearness"]

_BLOCK = 1024

_LEAST_EPS = 2.0**-17
"""Eps at the least, a tenth of what rounding to the lattice changes a cosine by: exact copies are
near copies under any eps."""


class ClusterParameters(BuiltInSetSelector, imports={"encoders": ("faiss",)}):
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
    encoder: EncoderModel = Field(
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

    _clusters: Clusters | None = None

    @property
    def partitions(self) -> int:
        return len(fitted(self._clusters, self.name))

    @property
    @abstractmethod
    def bound(self) -> tuple[float | None, float | None]:
        """``eps`` and ``keep``, of which one is given; of ``keep`` 1 leaves nothing out."""

    @property
    def requirements(self) -> Requirements:
        eps, keep = self.bound
        everything = keep == 1
        thinning = Thinning(
            nearness=self.nearness,
            fit=self.fit_survivors,
            limits=(-1.0, 1 - _LEAST_EPS),
            limit=math.inf if everything else None if eps is None else 1 - eps,
            keep=None if everything else keep,
            alone=self.rule == "chained",
        )
        return replace(super().requirements, thinning=thinning)

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Cluster a sample.

        Returns:
            Facts: the sample, the clusters' number and sizes in it.

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

    def nearness(self, partition: Partition, limit: float) -> np.ndarray:
        """Return each document's highest cosine with an earlier one of its cluster.

        Hashes decide between documents equally far from the centroid. Under the rule ``kept``, only
        earlier documents that the limit leaves count.

        Returns:
            (n,) float32; minus infinity for the first, NaN for a zero vector.
        """
        clusters = fitted(self._clusters, self.name)
        vectors = partition.vectors
        near = np.where(vectors.any(axis=1), np.float32(-np.inf), np.float32(np.nan))
        if limit < 1:
            order = farthest_first(vectors, clusters.centroids[partition.number])
            with threadpool_limits(1):
                for start in range(0, len(order), self.largest):
                    own = order[start : start + self.largest]
                    near[own] = nearness(vectors, own, self.rule, limit)
        return near

    def fit_survivors(self, limit: float, stay: int, vectors: np.ndarray) -> dict[str, Any]:
        """Return the fact ``eps``, 0 where nothing is a copy; see :class:`Thinning`."""
        return {"eps": round(max(0.0, 1 - limit), 6)}

    def describe_unscored(self, text: str, known: bool | None = None) -> str:
        """Name the near copy."""
        copy = "it is a near copy of another document"
        if known:
            return copy
        own = super().describe_unscored(text, known)
        return f"{copy}, or {own}" if known is None else own

    def save(self, directory: Path) -> None:
        """Write ``clusters.npy``."""
        fitted(self._clusters, self.name).save(directory / "clusters.npy")

    def load(self, directory: Path) -> None:
        self._clusters = Clusters.load(directory / "clusters.npy", spherical=True)


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


def nearness(vectors: np.ndarray, order: np.ndarray, rule: str, limit: float) -> np.ndarray:
    """Compute the highest cosine of each document with an earlier one.

    Args:
        vectors: (n, d) int16 on the lattice.
        order: (m,) int64, rows from the first to the last; none is a zero vector.
        rule: ``chained``: any earlier document counts; ``kept``: only one that is no near copy.
        limit: The highest cosine, as float32, of a document that is no near copy.

    Returns:
        (m,) float32, along ``order``; minus infinity for the first.
    """
    chained, bound = rule == "chained", np.float32(limit)
    inverse = 1.0 / lengths(vectors, order)
    near = np.full(len(order), -np.inf, np.float32)
    for start in range(0, len(order), _BLOCK):
        own = slice(start, start + _BLOCK)
        block = vectors[order[own]].astype(np.float32)
        highest = np.full(len(block), -np.inf)
        earlier = np.arange(start) if chained else np.flatnonzero(near[:start] <= bound)
        for at in range(0, len(earlier), _BLOCK):
            rows = earlier[at : at + _BLOCK]
            products = vectors[order[rows]].astype(np.float32) @ block.T
            _raise(highest, products, inverse[rows])
        near[own] = highest * inverse[own]
        _settle(near[own], block @ block.T, inverse[own], bound, chained)
    return near


@cached(nogil=True)
def _raise(highest: np.ndarray, products: np.ndarray, inverse: np.ndarray) -> None:
    """Raise ``highest`` (n,) float64 to each column's highest cosine times its own length."""
    for row in range(products.shape[0]):
        for column in range(products.shape[1]):
            highest[column] = max(highest[column], products[row, column] * inverse[row])


@cached(nogil=True)
def _settle(
    near: np.ndarray, products: np.ndarray, inverse: np.ndarray, limit: np.float32, chained: bool
) -> None:
    """Raise nearness (n,) float32 by a block's own documents, from the first to the last."""
    for row in range(len(near)):
        if chained or near[row] <= limit:
            for column in range(row + 1, len(near)):
                cosine = np.float32(products[row, column] * inverse[row] * inverse[column])
                near[column] = max(near[column], cosine)
