"""D4: semantic deduplication, then removal of the most typical documents.

Tirumala et al. 2023, *D4: Improving LLM Pretraining via Document De-Duplication and
Diversification*. SemDeDup keeps a share R_dedup of the pool; what survives is clustered anew,
since copies make centroids of their own, which would be taken for prototypes; then documents
nearest to their new centroid are dropped, until a share R_proto of the survivors is left (the
"SSL prototypes" of Sorscher et al. 2022). A score is the distance from that centroid, so that the
budget determines R_proto: the prototypes are the last to be taken.

Trade-off: the published order is SemDeDup of the pool, then clusters of its survivors; here the new
clusters are those of the sample's survivors, so that a partition needs one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from penstock.selectors.base import Fitting, Partition
from penstock.selectors.kernels.kmeans import (
    Clusters,
    cluster_count,
    fit_clusters,
    lengths,
)
from penstock.selectors.near_copies import ClusterParameters
from penstock.selectors.parameters import fitted

__all__ = ["D4"]


class D4(
    ClusterParameters,
    name="d4",
    summary="no near copies, and the least typical documents first",
    paper="Tirumala et al. 2023, D4: document de-duplication and diversification",
    version=1,
):
    """Excludes near copies, and ranks the rest by distance from their centroid, farthest first.

    It is meant for budgets that take most of what SemDeDup keeps: a budget that takes little of it
    buys outliers, and those are noise first.

    Where a default differs from the paper, the published value is given with the reason; see also
    :class:`penstock.selectors.semdedup.SemDeDup`.
    """

    default_bound: ClassVar[Mapping[str, float]] = {"keep": 0.75}

    keep: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="R_dedup, the share that SemDeDup keeps, found on the sample; 0.75 by "
        "default and as published. 1 leaves deduplication out, and the prototypes alone are "
        "dropped.",
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        lt=2,
        description="Instead of ``keep``, the bound of SemDeDup itself. Better for a pool much "
        "larger than the sample, in which a document has fewer copies than in the pool.",
    )

    _survivors: Clusters | None = None

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Cluster a sample, find eps on it, and cluster the survivors.

        Returns:
            Facts: those of :class:`penstock.selectors.semdedup.SemDeDup`, and ``survivors``, the
            number and sizes of the new clusters.

        Raises:
            SelectorError: There is no text, or there are fewer documents than clusters.
        """
        self._survivors = None
        vectors, stays, facts = self.fit_copies(fitting, self.eps, self.keep)
        left = vectors[stays]
        count = cluster_count(self.clusters, fitting.pool_size, len(vectors))
        count = min(count, len(left))
        fitting.progress(f"clustering {len(left):,} survivors into {count:,}")
        again = fit_clusters(left, count, spherical=True, iterations=self.iterations)
        self._survivors = again.clusters
        return {**facts, "survivors": again.facts}

    def score(self, partition: Partition) -> np.ndarray:
        """Return 1 - cosine with the nearest centroid of the survivors, 0 to 2, (n,) float32.

        NaN for a near copy and for a document without a token.
        """
        deduplicator = fitted(self._deduplicator, self.name)
        survivors = fitted(self._survivors, self.name)
        rows = np.flatnonzero(deduplicator.stays(partition.vectors, partition.number))
        vectors = partition.vectors[rows]
        nearest = survivors.nearest(vectors)
        away = lengths(vectors) * lengths(survivors.centroids)[nearest.numbers]
        scores = np.full(len(partition), np.nan, np.float32)
        scores[rows] = 1 - nearest.values / away
        return scores

    def save(self, directory: Path) -> None:
        super().save(directory)
        fitted(self._survivors, self.name).save(directory / "survivors.npy")

    def load(self, directory: Path) -> None:
        super().load(directory)
        self._survivors = Clusters.load(directory / "survivors.npy", spherical=True)
