"""SemDeDup: of documents that mean nearly the same, only one may be taken.

Abbas et al. 2023, *SemDeDup: Data-efficient learning at web-scale through semantic
deduplication*. Within each cluster, documents are put in order of their distance from the
centroid, the farthest first, and one with an earlier document nearer to it than ``eps`` is a near
copy: NaN, never taken. The least typical of each group stays
(:mod:`penstock.selectors.near_copies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from penstock.selectors.base import Partition
from penstock.selectors.near_copies import ClusterParameters
from penstock.selectors.parameters import Share

__all__ = ["SemDeDup"]


class SemDeDup(
    ClusterParameters,
    name="semdedup",
    summary="no two documents that mean nearly the same",
    meaning="0, or none for a near copy of another document",
    paper="Abbas et al. 2023, SemDeDup: semantic deduplication",
    version=2,
):
    """Excludes near copies; all others score 0.

    The method defines which documents are copies, and nothing about the rest. With equal scores
    the cut draws among them by hash, uniformly, and in a mixture of columns this one only
    excludes: any other score would be an unrequested preference. Distance from the centroid is
    the score of D4, a selector of its own.

    Where a default differs from the paper, the published value is given with the reason; figures
    are from a pool of 65,686 web documents.
    """

    default_bound: ClassVar[Mapping[str, float]] = {"eps": 0.05}

    eps: float | None = Field(
        default=None,
        gt=0,
        lt=2,
        description="Two documents are near copies if their cosine is above 1 - eps. Default, "
        "without ``keep``: 0.05, which excludes 2 % of the pool: with the static encoder these "
        "are pages of one template, as of a table tennis championship in two years. From 0.15 "
        "on (7 %) they merely share a subject.",
    )
    keep: Share | None = Field(
        default=None,
        description="Instead of ``eps``, the share of the documents to keep: eps is the highest "
        "that keeps it, found on the whole clusters of the whole pool, as published. Exact copies "
        "are left out even if more than the share are.",
    )

    @property
    def bound(self) -> tuple[float | None, float | None]:
        return self.eps, self.keep

    def score(self, partition: Partition) -> np.ndarray:
        """Return 0 for each document that is no near copy: (n,) float32."""
        return np.zeros(len(partition), np.float32)
