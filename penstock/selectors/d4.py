"""D4: semantic deduplication, then removal of the most typical documents.

Tirumala et al. 2023, *D4: Improving LLM Pretraining via Document De-Duplication and
Diversification*. SemDeDup keeps a share R_dedup of the pool; what survives is clustered anew,
since copies make centroids of their own, which would be taken for prototypes; then documents
nearest to their new centroid are dropped, until a share R_proto of the survivors is left (the
"SSL prototypes" of Sorscher et al. 2022). A score is the distance from that centroid, so that the
budget determines R_proto: the prototypes are the last to be taken.

As published, SemDeDup is of the whole pool. The new clusters are fitted on a sample of what it
keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from penstock.errors import SelectorError
from penstock.selectors.base import Partition, Requirements
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
    meaning="distance from the middle of its cluster, 0 to 2",
    paper="Tirumala et al. 2023, D4: document de-duplication and diversification",
    version=2,
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
        description="R_dedup, the share of the pool that SemDeDup keeps; 0.75 by default and as "
        "published. 1 leaves deduplication out, and the prototypes alone are dropped.",
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        lt=2,
        description="Instead of ``keep``, the bound of SemDeDup itself.",
    )

    _survivors: Clusters | None = None

    @property
    def bound(self) -> tuple[float | None, float | None]:
        return self.eps, self.keep

    @property
    def requirements(self) -> Requirements:
        own = super().requirements
        assert own.thinning is not None
        return replace(own, thinning=replace(own.thinning, sample=self.sample))

    def fit_survivors(self, limit: float, stay: int, vectors: np.ndarray) -> dict[str, Any]:
        """Cluster a sample of the survivors.

        Returns:
            Facts: ``eps``, and ``survivors``, the number and sizes of the new clusters.

        Raises:
            SelectorError: The sample is empty.
        """
        if not len(vectors):
            raise SelectorError(key="sample", expected="survivors to cluster", got="none")
        count = self.clusters
        if isinstance(count, str):
            count = cluster_count(count, stay, len(vectors))
        again = fit_clusters(
            vectors, min(count, len(vectors)), spherical=True, iterations=self.iterations
        )
        self._survivors = again.clusters
        return {**super().fit_survivors(limit, stay, vectors), "survivors": again.facts}

    def score(self, partition: Partition) -> np.ndarray:
        """Return 1 - cosine with the nearest centroid of the survivors, 0 to 2, (n,) float32.

        No document is a zero vector.
        """
        survivors = fitted(self._survivors, self.name)
        nearest = survivors.nearest(partition.vectors)
        away = lengths(partition.vectors) * lengths(survivors.centroids)[nearest.numbers]
        return (1 - nearest.values / away).astype(np.float32)
