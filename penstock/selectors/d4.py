"""D4: semantic deduplication, then the most typical documents go too.

Tirumala et al. 2023, *D4: Improving LLM Pretraining via Document De-Duplication and
Diversification*. SemDeDup keeps a share R_dedup of the pool; what survives is clustered anew,
since copies make centroids of their own, which would be taken for prototypes; then documents
nearest to their new centroid are dropped, until a share R_proto of the survivors is left (the
"SSL prototypes" of Sorscher et al. 2022). A score is the distance from that centroid, so that the
budget says what R_proto is: the prototypes are the last to be taken.

What is traded away: the published order is SemDeDup of the pool, then clusters of its survivors;
here the new clusters are those of the sample's survivors, so that a partition needs one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from penstock.errors import SelectorError
from penstock.selectors.base import Fitting, Partition
from penstock.selectors.encoders.encoders import contents_of
from penstock.selectors.kernels.kmeans import (
    Clusters,
    cluster_count,
    clusters_parameter,
    fit_clusters,
    lengths,
    sample_vectors,
)
from penstock.selectors.parameters import model_name, number, one_of, whole
from penstock.selectors.semdedup import Deduplicator, fit_deduplicator, not_both

__all__ = ["D4"]

_KEEP = 0.75


class D4:
    """Excludes near copies, and ranks the rest by distance from their centroid, farthest first.

    It is meant for budgets that take most of what SemDeDup keeps: one that takes little of it buys
    what is like nothing else, and that is noise first.

    Where a default differs from the paper, the published value is given with the reason; see also
    :class:`penstock.selectors.semdedup.SemDeDup`.

    Args:
        keep: R_dedup, the share that SemDeDup keeps, found on the sample; 0.75 as published. 1
            leaves it out, and the prototypes alone are dropped.
        eps: Instead of ``keep``, the bound of SemDeDup itself. Better for a pool much larger than
            the sample, in which a document has fewer copies than in the pool.
        rule: Of SemDeDup: ``chained`` or ``kept``.
        clusters: How many, before and after; ``auto`` is the square root of the pool. Published:
            11,000.
        encoder: As in :mod:`penstock.selectors.encoders.embedding`. Published: the last layer of
        OPT-125M
            at the last token.
        sample: Documents that clusters are fitted on, about.
        iterations: Of spherical k-means, at most.
    """

    summary: ClassVar[str] = "no near copies, and the least typical documents first"
    paper: ClassVar[str] = "Tirumala et al. 2023, D4: document de-duplication and diversification"
    version: ClassVar[int] = 1
    paths: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(
        self,
        *,
        keep: float | None = None,
        eps: float | None = None,
        rule: str = "chained",
        clusters: int | str = "auto",
        encoder: str = "static",
        sample: int = 100_000,
        iterations: int = 100,
    ) -> None:
        not_both(eps, keep)
        self.eps = None if eps is None else number("eps", eps, below=2)
        self.keep = _share("keep", _KEEP if keep is None else keep) if eps is None else None
        self.rule = one_of("rule", rule, "chained", "kept")
        self.clusters = clusters_parameter("clusters", clusters)
        self.encoder = model_name("encoder", encoder)
        self.sample = whole("sample", sample)
        self.iterations = whole("iterations", iterations)
        self.quality: str | None = None
        self.deduplicator_: Deduplicator | None = None
        self.survivors_: Clusters | None = None

    @property
    def partitions(self) -> int:
        """One for each cluster of SemDeDup."""
        return len(self._fitted()[0].clusters)

    def identity(self) -> Mapping[str, Any]:
        """The hyperparameters, and the contents of the encoder's directory if it is one."""
        own = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        return {**own, "encoder": contents_of(self.encoder)}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Cluster a sample, find eps on it, and cluster what survives.

        Returns:
            Facts: those of :class:`penstock.selectors.semdedup.SemDeDup`, and ``survivors``, the
            number and sizes of the new clusters.

        Raises:
            SelectorError: There is no text, or there are fewer documents than clusters.
        """
        self.deduplicator_ = self.survivors_ = None
        vectors = sample_vectors(fitting, self.encoder, self.sample)
        deduplicator, stays, facts = fit_deduplicator(
            vectors,
            fitting,
            clusters=self.clusters,
            iterations=self.iterations,
            eps=self.eps,
            keep=self.keep,
            rule=self.rule,
        )
        left = vectors[stays]
        count = cluster_count(self.clusters, fitting.pool_size, len(vectors))
        count = min(count, len(left))
        fitting.progress(f"clustering {len(left):,} survivors into {count:,}")
        again = fit_clusters(left, count, spherical=True, iterations=self.iterations)
        self.deduplicator_, self.survivors_ = deduplicator, again.clusters
        return {**facts, "survivors": again.facts}

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """SemDeDup's nearest cluster, the lowest of equally near ones: (n,) int64."""
        return self._fitted()[0].clusters.nearest(vectors).numbers

    def score(self, partition: Partition) -> np.ndarray:
        """(n,) float32: 1 - cosine with the nearest centroid of the survivors, 0 to 2; NaN for a
        near copy and for a document without a token."""
        deduplicator, survivors = self._fitted()
        rows = np.flatnonzero(deduplicator.stays(partition.vectors, partition.number))
        vectors = partition.vectors[rows]
        nearest = survivors.nearest(vectors)
        away = lengths(vectors) * lengths(survivors.centroids)[nearest.numbers]
        scores = np.full(len(partition), np.nan, np.float32)
        scores[rows] = 1 - nearest.values / away
        return scores

    def save(self, directory: Path) -> None:
        """Write both sets of centroids, and eps."""
        deduplicator, survivors = self._fitted()
        deduplicator.save(directory)
        survivors.save(directory / "survivors.npy")

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        self.deduplicator_ = Deduplicator.load(directory, rule=self.rule)
        self.survivors_ = Clusters.load(directory / "survivors.npy", spherical=True)

    def _fitted(self) -> tuple[Deduplicator, Clusters]:
        if self.deduplicator_ is None or self.survivors_ is None:
            raise SelectorError("d4: expected a fitted selector; call fit or load first")
        return self.deduplicator_, self.survivors_


def _share(key: str, value: Any) -> float:
    """A number above 0, and 1 at most."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:
        raise SelectorError(f"{key}: expected a number in (0, 1], got {value!r}")
    return float(value)
