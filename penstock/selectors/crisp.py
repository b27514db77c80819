"""CRISP: documents of each cluster in proportion to the target's examples there.

Grangier et al. 2024, *Task-Adaptive Pretrained Language Models via Clustered-Importance Sampling*
(CRISP); the weights are those of Grangier et al. 2024, *Specialized Language Models with Cheap
Inference from Limited Domain Data*. The pool is clustered, and the target's examples are assigned
to the same clusters. A cluster c of n(c) examples has the importance

    w(c) = ((n(c) + a) / (n + a k)) / P(c),

P(c) being its share of the pool and a a pseudo-count. Published: a cluster is drawn by its share of
the examples, then a document uniformly in it, without end. Here each cluster is a partition, and a
document's score is its place in a uniform order of its cluster, measured in the cluster's budget
|c| w(c). So one column holds the cluster budgets of every budget, and P(c) is counted, not
estimated. The other published form weighs the losses of a run by w(c): ``gives: weight`` is the
column for it.

Trade-off: a document is taken once at most. Where the published draw would repeat documents of a
cluster that is exhausted, the others are drawn from more deeply; the fit reports how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from penstock.errors import ArtefactError, SelectorError
from penstock.hashing import hash_ids, mix, uniform
from penstock.selectors.algorithm import BuiltInSetSelector, read_array
from penstock.selectors.base import Fitting, Nearness, Partition, Requirements
from penstock.selectors.encoders.embedding import embed_texts
from penstock.selectors.kernels.kmeans import (
    Clusters,
    cluster_count,
    fit_clusters,
    sample_vectors,
)
from penstock.selectors.parameters import ClusterCount, Whole, fitted, recipe_default

__all__ = ["Crisp", "importance", "shortfall"]

_BUDGETS = (0.01, 0.03, 0.1, 0.3)
"""Shares of the pool's documents for which the fit reports the shortfall."""

_LOWEST = float(np.finfo(np.float32).min)


class Crisp(
    BuiltInSetSelector,
    name="crisp",
    summary="each cluster in proportion to the target's examples in it",
    meaning="minus the budget at which it is drawn from its cluster, in units of the cluster's",
    paper="Grangier et al. 2024, CRISP: clustered-importance sampling",
    version=1,
    imports={"encoders": ("faiss",)},
):
    """Scores documents by when a draw by the target's clusters takes them.

    Where a default differs from the paper, the published value is given with the reason.
    """

    gives: Literal["draw", "weight"] = Field(
        default="draw",
        description="``draw``: a score by which a cut takes the clusters' budgets. ``weight``: "
        "w(c), the same for all documents of a cluster, 1 on average: for losses "
        "(``shards.carry`` and ``train.reweight: {use: carried}``).",
    )
    pseudo_count: Annotated[float, Field(ge=0)] = Field(
        default=0.1,
        description="a, which is added to the examples of each cluster. Published: 0, by which "
        "a cluster without an example is never taken. Of 0.01 to 5, 0.1 was within 0.03 nats of "
        "the best for held-out examples' clusters, whether 50, 200 or 2,251 examples of ARC-Easy "
        "gave the shares over 256 clusters (best at 0.03, 0.1 and 0.2).",
    )
    clusters: ClusterCount = recipe_default(
        "auto",
        description="k. Published: 1,024 and more, for pools of 10^8 documents and more. "
        "``auto`` is the square root of the pool: with many more clusters than examples the "
        "target's shares are noise, and small clusters are exhausted.",
    )
    sample: Whole = Field(
        default=100_000,
        description="Documents that clusters are fitted on, about.",
    )
    iterations: Whole = Field(
        default=100,
        description="Of Euclidean k-means, at most.",
    )

    _clusters: Clusters | None = None
    _budgets: np.ndarray | None = None
    # (k,) float64: |c| w(c), the documents of each cluster in a draw as large as the pool.

    @property
    def requirements(self) -> Requirements:
        nearness = Nearness(
            encoder=self.encoder, compared=lambda targets, seed: range(len(targets))
        )
        return Requirements(target=True, encoder=self.encoder, nearness=nearness)

    @property
    def partitions(self) -> int:
        return len(fitted(self._clusters, self.name))

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Cluster a sample, and count the target's examples in each cluster.

        Returns:
            Facts: the sample, the clusters' number and sizes in it, the loss; ``examples``, those
            ``without_a_token``; ``clusters_without_examples``, the least and the largest
            ``weight`` by the sample; ``shortfall``, by share of the pool that a cut takes, the
            share of the draw that exhausted clusters cannot give.

        Raises:
            SelectorError: There is no text, no example with a token, or there are fewer documents
                than clusters.
        """
        self._clusters = self._budgets = None
        vectors = sample_vectors(fitting, self.encoder, self.sample)
        count = cluster_count(self.clusters, fitting.pool_size, len(vectors))
        fitting.progress(f"clustering {len(vectors):,} documents into {count:,}")
        found = fit_clusters(vectors, count, spherical=False, iterations=self.iterations)
        texts = pa.array([target.text for target in fitting.target], pa.large_string())
        examples = embed_texts(texts, fitting.encoder(self.encoder), spread=fitting.spread)
        examples = examples[examples.any(axis=1)]
        if not len(examples):
            raise SelectorError(
                key="target", expected="examples with a token of the encoder", got="none"
            )
        count = len(found.clusters)
        pool = np.bincount(found.labels, minlength=count)
        special = np.bincount(found.clusters.nearest(examples).numbers, minlength=count)
        weights = importance(pool, special, self.pseudo_count)
        shares = pool / pool.sum()
        short = {share: shortfall(shares, shares * weights, share) for share in _BUDGETS}
        for share, lost in short.items():
            if lost >= 0.005:
                fitting.progress(
                    f"of a cut of {share:.0%} of the documents, {lost:.0%} come from other "
                    "clusters than the target's: those are exhausted"
                )
        self._clusters = found.clusters
        self._budgets = fitting.pool_size * shares * weights
        return {
            **found.facts,
            "examples": len(texts),
            "without_a_token": len(texts) - len(examples),
            "clusters_without_examples": int((special == 0).sum()),
            "weight": {
                "least": round(float(weights.min()), 4),
                "largest": round(float(weights.max()), 4),
            },
            "shortfall": {f"{share:g}": round(lost, 4) for share, lost in short.items()},
        }

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Assign to the nearest cluster, the lowest of equally near ones: (n,) int64."""
        return fitted(self._clusters, self.name).nearest(vectors).numbers

    def score(self, partition: Partition) -> np.ndarray:
        """Return minus the budget at which a document is drawn, in units of its cluster's.

        The scores are (n,) float32; NaN where the cluster's weight is 0. A cluster's first draw
        is due at a part of its budget, from 0 to the whole, drawn by hash, so that small clusters
        are at no disadvantage. With ``gives: weight``, w(c).
        """
        budget = float(fitted(self._budgets, self.name)[partition.number])
        count = len(partition)
        if self.gives == "weight":
            return np.full(count, budget / max(count, 1), np.float32)
        if not count or not budget:
            return np.full(count, np.nan, np.float32)
        order = np.argsort(_draws(partition.hashes, "draw"), kind="stable")
        due = np.arange(1, count + 1) - _draws(partition.hashes[:1], "start")
        scores = np.empty(count, np.float32)
        scores[order] = np.maximum(-due / budget, _LOWEST)
        return scores

    def describe_unscored(self, text: str, known: bool | None = None) -> str:
        """Name the weight of the document's cluster."""
        weight = "the weight of its cluster is 0"
        if known:
            return weight
        own = super().describe_unscored(text, known)
        return f"{weight}, or {own}" if known is None else own

    def save(self, directory: Path) -> None:
        fitted(self._clusters, self.name).save(directory / "clusters.npy")
        np.save(directory / "budgets.npy", fitted(self._budgets, self.name))

    def load(self, directory: Path) -> None:
        self._clusters = self._budgets = None
        clusters = Clusters.load(directory / "clusters.npy", spherical=False)
        budgets = read_array(directory / "budgets.npy")
        good = budgets.dtype == np.float64 and budgets.shape == (len(clusters),)
        if not good or not np.isfinite(budgets).all() or (budgets < 0).any():
            raise ArtefactError(
                file=directory / "budgets.npy",
                expected=f"{len(clusters)} numbers of 0 or more",
                got=f"{budgets.dtype} of shape {budgets.shape}",
            )
        self._clusters, self._budgets = clusters, budgets


def _draws(hashes: np.ndarray, purpose: str) -> np.ndarray:
    """Hash (n,) uint64 again, for a draw that is independent of others, to (n,) float64."""
    strings = pa.array(hashes, pa.uint64()).cast(pa.large_string())
    return uniform(hash_ids(strings, mix("crisp", purpose)))


def importance(pool: np.ndarray, target: np.ndarray, pseudo_count: float = 0.0) -> np.ndarray:
    """Compute w(c) = ((n(c) + a) / (n + a k)) / P(c), whose mean over the pool is 1.

    Args:
        pool: (k,) documents of each cluster, or shares of them; none is 0.
        target: (k,) n(c), examples of each cluster, or shares of them.
        pseudo_count: a.

    Returns:
        (k,) float64.
    """
    smoothed = target + pseudo_count
    weights: np.ndarray = smoothed / smoothed.sum() / (pool / pool.sum())
    return weights


def shortfall(shares: np.ndarray, budgets: np.ndarray, cut: float) -> float:
    """Return the share of a draw that clusters cannot give without repeating a document.

    Args:
        shares: (k,) P(c), sum 1.
        budgets: (k,) P(c) w(c), sum 1.
        cut: The documents drawn, as a share of the pool's.
    """
    return float(np.maximum(cut * budgets - shares, 0).sum() / cut)
