"""kMQ: k-means clusters share the budget, and within each, documents are drawn by quality.

Yu et al. 2024, *Diversify and Conquer: Diversity-Centric Data Selection with Iterative
Refinement*. Each cluster is a partition. Within it, documents are put in
the order in which a draw weighted by quality would take them; a document's score is its place in
that order, measured in its cluster's share of a budget. So one column holds the cluster budgets
of every budget: for any budget, all clusters are drawn from to the same depth, and where a
cluster is exhausted, the others are drawn from more deeply.

Trade-off: a document is in the cut once at most, so the repeats of a draw with replacement are
dropped. Cluster budgets are in documents, a recipe's budget is in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field

from penstock.errors import SelectorError
from penstock.hashing import hash_ids, mix, uniform
from penstock.selectors.algorithm import BuiltInSetSelector
from penstock.selectors.base import ClusterWeights, Fitting, Partition, Requirements
from penstock.selectors.kernels.kmeans import (
    Clustering,
    Clusters,
    cluster_count,
    fit_clusters,
    lengths,
    sample_vectors,
)
from penstock.selectors.parameters import (
    ClusterCount,
    ModelShape,
    OneOrMore,
    Optional,
    Options,
    Positive,
    Text,
    Whole,
    fitted,
    number,
    recipe_default,
)

__all__ = ["Kmq", "Refinement", "refine", "silhouette"]

_JUDGED = 2000
"""Documents from which a silhouette is computed: 4 million distances, half a second."""

_FIXED = 1024.0
"""Distances on the lattice are summed in units of 2^-10, as integers, so in any order."""

_LOWEST = float(np.finfo(np.float32).min)


class Refinement(Options):
    """Rounds of short runs that measure where a model is behind (the iterative version).

    Published: instructions, of which each round picks new ones by the weights, fine-tunes a model
    and has a reward model compare the given answers with the model's own; a cluster's signal is
    the mean of the difference, so a cluster gets more where the model is behind. In pretraining
    there is no answer to compare. Here a cluster's signal is the loss on its held-out documents
    less that of a reference: a model of the same shape, trained once with equal weights on as many
    tokens as all rounds together. (A loss alone would prefer what is hard for any model, the fall
    of a loss what is easy.) Each round trains the previous round's model on another part of the
    pool, so that documents are new to it. The reference costs as much as the rounds.
    """

    rounds: int = Field(
        default=3,
        ge=1,
        description="Rounds of runs, as published. Weights are updated after each.",
    )
    tokens: Whole = Field(
        default=500_000,
        description="Tokens of a round.",
    )
    shape: ModelShape = Field(
        default=(2, 128, 4),
        description="Layers, width and heads of the model.",
    )
    batch_tokens: Whole = Field(
        default=2048,
        description="Tokens of a step.",
    )
    lr: Positive = Field(
        default=3e-3,
        description="The highest learning rate.",
    )
    temperature: Positive = Field(
        default=0.05,
        description="T of :func:`refine`, in bits per byte. Published: 1, of rewards.",
    )
    held_out: Whole = Field(
        default=20,
        description="Held-out documents of each cluster that measure its loss, about.",
    )


def _check_weights(weights: Any) -> tuple[float, ...]:
    return tuple(_weights(None, weights).tolist())


class Kmq(
    BuiltInSetSelector,
    name="kmq",
    summary="clusters share the budget, better documents likelier to be drawn",
    meaning="minus the budget at which it is drawn from its cluster, in units of the cluster's",
    paper="Yu et al. 2024, Diversify and Conquer (kMQ)",
    version=2,
    imports={"encoders": ("faiss",)},
):
    """Scores documents by when their cluster's draw takes them.

    Where a default differs from the paper, the published value is given with the reason. The
    paper takes 10,000 of 196,000 instructions; figures are from a pool of 65,686 web documents.
    """

    quality: Text | None = Field(
        default=None,
        description="Another column that draws are weighted by; without one, all documents of a "
        "cluster are equal, the paper's kM-random. Published: DEITA's grades, 1 to 6.",
    )
    budget: Literal["proportional", "equal"] = Field(
        default="proportional",
        description="``proportional`` to the documents of a cluster, as published, or "
        "``equal``, as in the published code, which favours what is rare and spends a small "
        "cluster whole. The code's ``floor(b / k)`` loses the remainder and what small clusters "
        "cannot give; here both go to the others.",
    )
    replace: bool = Field(
        default=False,
        description="Draw with replacement, as published: a cluster whose quality lies in few "
        "documents then gives fewer of them, for repeats use up its budget. Default: without, "
        "as in the published code, since a repeat is no document and a token budget is met in "
        "full either way.",
    )
    temperature: Positive = Field(
        default=1.0,
        description="Documents are drawn with probabilities as softmax(quality / temperature). "
        "Published: 1, for grades.",
    )
    standardise: bool = Field(
        default=True,
        description="Measure quality in standard deviations of the whole pool first, by the "
        "distance of its quartiles over 1.349, so that neither extreme documents count nor "
        "differences within a cluster of nearly equal ones. "
        "Published: as it is, in the code even cast to integers. A column's unit is arbitrary: "
        "softmax of a probability hardly prefers anything, and softmax of a rank is no draw any "
        "more. Grades of 1 to 6 spread by 2.5 at most, so a temperature of 1 is of the same "
        "order as there.",
    )
    weights: Annotated[tuple[float, ...], BeforeValidator(_check_weights)] | None = Field(
        default=None,
        description="For each cluster, from :func:`refine`: they multiply the cluster budgets, "
        "and 0 is never taken. With ``budget: equal`` they are the budgets, as published.",
    )
    refine: Optional[Refinement] = Field(
        default=None,
        description="Find the weights by short training runs, which give more to clusters where "
        "the model is behind: ``true``, or a mapping with :class:`Refinement`'s keys.",
    )
    clusters: OneOrMore[ClusterCount] = recipe_default(
        "auto",
        description="Their number; a list is chosen from by silhouette, as published; ``auto`` "
        "is the square root of the pool. Silhouettes of web text choose next to nothing: they "
        "fall from 0.09 for 2 clusters to 0.04 for 32 and 0.02 for 256.",
    )
    metric: Literal["euclidean", "spherical"] = Field(
        default="euclidean",
        description="``euclidean``, as published, or ``spherical``.",
    )
    sample: Whole = Field(
        default=100_000,
        description="Documents that clusters are fitted on, about.",
    )
    iterations: Whole = Field(
        default=100,
        description="Of k-means, at most. Published: 300. No centroid moved after 46 to 211, "
        "and those after the hundredth lowered the loss by 0.1 % at most.",
    )
    restarts: Whole = Field(
        default=1,
        description="Of k-means. Published: 5. The losses of three starts differed by 0.1 % at "
        "most.",
    )

    _cluster_weights: tuple[float, ...] | None = None
    # Given, or found by refinement.
    _clusters: Clusters | None = None

    def model_post_init(self, context: Any) -> None:
        if self.refine is not None and self.weights is not None:
            raise SelectorError(
                key="refine", expected="no weights beside it", got="both", fix="give one"
            )
        self._cluster_weights = self.weights

    @property
    def partitions(self) -> int:
        return len(fitted(self._clusters, self.name))

    @property
    def cluster_weights(self) -> tuple[float, ...] | None:
        return self._cluster_weights

    def give_weights(self, weights: Sequence[float]) -> None:
        """Receive the weights that multiply the cluster budgets, one for each cluster."""
        self._cluster_weights = tuple(_weights("weights", weights).tolist())

    @property
    def requirements(self) -> Requirements:
        return Requirements(
            quality=self.quality, encoder=self.encoder, cluster_weights=self._refinement()
        )

    def _refinement(self) -> ClusterWeights | None:
        plan = self.refine
        if plan is None:
            return None
        return ClusterWeights(
            rounds=plan.rounds,
            tokens=plan.tokens,
            shape=plan.shape,
            batch_tokens=plan.batch_tokens,
            lr=plan.lr,
            held_out=plan.held_out,
            unweighted=Kmq(**{**dict(self), "refine": None}),
            replaces="refine",
            update=lambda weights, signals: refine(weights, signals, plan.temperature),
            give=self.give_weights,
        )

    def identity(self) -> Mapping[str, Any]:
        """Return the parameters, with the weights in place of ``refine``.

        Raises:
            SelectorError: The weights that were to be found were not given yet.
        """
        if self.refine is not None and self._cluster_weights is None:
            raise SelectorError(
                key="refine",
                expected="weights, which `penstock curate` finds first",
                got="none",
                fix="call `give_weights`",
            )
        own = dict(super().identity())
        del own["refine"]
        return {**own, "weights": self._cluster_weights and list(self._cluster_weights)}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Cluster a sample.

        Returns:
            Facts: the sample, the clusters' number and sizes in it, the loss, the silhouettes if
            there was a choice.

        Raises:
            SelectorError: There is no text, there are fewer documents than clusters, or the
                weights are not one for each cluster.
        """
        self._clusters = None
        vectors = sample_vectors(fitting, self.encoder, self.sample)
        counts = [cluster_count(one, fitting.pool_size, len(vectors)) for one in self.clusters]
        best, facts = self._chosen(vectors, counts, fitting)
        if self._cluster_weights is not None and len(self._cluster_weights) != len(best.clusters):
            raise SelectorError(
                key="weights",
                expected=f"{len(best.clusters)} numbers, one for each cluster",
                got=len(self._cluster_weights),
                fix="fix clusters, and make the weights of the same clusters",
            )
        self._clusters = best.clusters
        return {**best.facts, **facts}

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Assign to the nearest cluster, the lowest of equally near ones: (n,) int64."""
        return fitted(self._clusters, self.name).nearest(vectors).numbers

    def score(self, partition: Partition) -> np.ndarray:
        """Return minus the budget at which a document is drawn, in units of its cluster's share.

        The scores are (n,) float32; NaN for a document without a token or without a quality.
        A cluster's first draw is due at a part of its share, from 0 to the whole, drawn by hash.
        So with a budget of a hundredth of the pool, a cluster of ten gives a document in one case
        of ten, and no document is at a disadvantage for being in a small cluster.
        """
        scores = np.full(len(partition), np.nan, np.float32)
        takeable = partition.vectors.any(axis=1)
        if self.quality is not None:
            assert partition.quality is not None
            takeable &= np.isfinite(partition.quality)
        rows = np.flatnonzero(takeable)
        share = float(len(rows)) if self.budget == "proportional" else 1.0
        if self._cluster_weights is not None:
            share *= self._cluster_weights[partition.number]
        if not len(rows) or not share:
            return scores
        logits = self._logits(partition, rows)
        # Gumbel noise: the highest sums are a draw without replacement, one after another.
        noise = -np.log(-np.log(_uniform(partition.hashes[rows], "draw")))
        order = np.argsort(-(logits + noise), kind="stable")
        due = np.arange(1, len(rows) + 1, dtype=np.float64)
        if self.replace:
            uniforms = _uniform(partition.hashes[rows[order]], "repeat")
            due = _first_draws(np.exp(logits[order] - logits.max()), uniforms)
        due -= _uniform(partition.hashes[rows[:1]], "start")
        with np.errstate(over="ignore"):
            scores[rows[order]] = np.maximum(-due / share, _LOWEST)
        return scores

    def save(self, directory: Path) -> None:
        fitted(self._clusters, self.name).save(directory / "clusters.npy")

    def load(self, directory: Path) -> None:
        spherical = self.metric == "spherical"
        self._clusters = Clusters.load(directory / "clusters.npy", spherical=spherical)

    def _chosen(
        self, vectors: np.ndarray, counts: Sequence[int], fitting: Fitting
    ) -> tuple[Clustering, dict[str, Any]]:
        """Choose the clustering with the highest silhouette, the first of equals; add the
        figures."""
        tried: list[Clustering] = []
        for count in dict.fromkeys(counts):
            fitting.progress(f"clustering {len(vectors):,} documents into {count:,}")
            tried.append(
                fit_clusters(
                    vectors,
                    count,
                    spherical=self.metric == "spherical",
                    iterations=self.iterations,
                    restarts=self.restarts,
                )
            )
        if len(tried) == 1:
            return tried[0], {}
        figures = [silhouette(vectors[:_JUDGED], one.labels[:_JUDGED]) for one in tried]
        facts = [
            {"clusters": len(one.clusters), "silhouette": round(figure, 4)}
            for one, figure in zip(tried, figures)
        ]
        return tried[int(np.argmax(figures))], {"silhouettes": facts}

    def _logits(self, partition: Partition, rows: np.ndarray) -> np.ndarray:
        """Return logarithms of relative draw probabilities: (m,) float64."""
        scale = partition.quality_scale if self.standardise else 1.0
        if self.quality is None or partition.quality is None or not scale:
            return np.zeros(len(rows))
        return partition.quality[rows].astype(np.float64) / scale / self.temperature


def refine(
    weights: Sequence[float], signals: Sequence[float], temperature: float = 1.0
) -> np.ndarray:
    """Compute the next round's cluster weights from this round's signals.

    Published: ``w_j s_j``, renormalised, which a negative signal breaks; in the code
    ``exp(s_j)``, which ignores all rounds but the last. Here it is ``w_j exp(s_j / T)``,
    which avoids both problems: rounds add up, and a signal may have any sign.

    Args:
        weights: (k,) of this round, 0 or more; their sum does not matter.
        signals: (k,) of each cluster, higher where the model is behind: the mean of what a reward
            model gives the given answers more than the model's, or the excess of a held-out loss.
        temperature: T, in the unit of the signals.

    Returns:
        (k,) float64, summing to 1.

    Raises:
        SelectorError: The lengths differ, or a signal is not finite.
    """
    before = _weights("weights", weights)
    gains = np.asarray(signals, np.float64)
    if gains.shape != before.shape or not np.isfinite(gains).all():
        raise SelectorError(
            key="signals",
            expected=f"{len(before)} finite numbers, one for each cluster",
            got=repr(signals),
        )
    with np.errstate(divide="ignore"):
        logs = np.log(before) + gains / number("temperature", temperature)
    after = np.exp(logs - logs.max())
    return after / after.sum()


def silhouette(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Compute the mean of (b - a) / max(a, b) over documents (Rousseeuw 1987).

    a is the mean distance to the others of a document's own cluster and b to those of the nearest
    other one; alone in its cluster, a document counts as 0. With a single cluster it is 0.

    Args:
        vectors: (n, d) int16 on the lattice.
        labels: (n,) int64.
    """
    used, labels = np.unique(labels, return_inverse=True)
    if len(used) == 1:
        return 0.0
    order = np.argsort(labels, kind="stable")
    labels, rows = labels[order], vectors[order].astype(np.float32)
    squares = lengths(vectors[order]) ** 2
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    own = (np.arange(len(rows)), labels)
    apart = np.maximum(squares[:, None] - 2.0 * (rows @ rows.T) + squares, 0)
    fixed = np.rint(np.sqrt(apart) * _FIXED).astype(np.int64)
    sums = np.add.reduceat(fixed, starts, axis=1) / _FIXED
    inside = sums[own] / np.maximum(counts[labels] - 1, 1)
    means = sums / counts
    means[own] = np.inf
    outside = means.min(axis=1)
    worth = (outside - inside) / np.maximum(np.maximum(inside, outside), np.finfo(float).tiny)
    return float(np.where(counts[labels] > 1, worth, 0).mean())


def _first_draws(chances: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Compute at which draw with replacement each new document first appears, (m,) float64.

    The new ones come in the order of a draw without replacement. While documents of chances r in
    all are still to come, of R in all, the wait for the next is geometric: 1 + floor(log u /
    log(1 - r / R)) draws.

    Args:
        chances: (m,) float64 in the order of the draw.
        uniforms: (m,) float64 in (0, 1).
    """
    to_come = np.cumsum(chances[::-1])[::-1]
    with np.errstate(divide="ignore", over="ignore"):
        # Near certainty of a repeat 1 - r / R would round to 1.
        repeat = np.log1p(-np.minimum(to_come / to_come[0], 1.0))
        waits = 1 + np.floor(np.log(uniforms) / np.minimum(repeat, -np.finfo(float).tiny))
        return np.cumsum(waits)


def _uniform(hashes: np.ndarray, purpose: str) -> np.ndarray:
    """Hash (n,) uint64 again, for a draw that is independent of others, to (n,) float64."""
    strings = pa.array(hashes, pa.uint64()).cast(pa.large_string())
    return uniform(hash_ids(strings, mix("kmq", purpose)))


def _weights(key: str | None, values: Any) -> np.ndarray:
    """Return weights, (k,) float64, all at least 0 and at least one above."""
    try:
        weights = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        weights = np.empty(0)
    good = weights.ndim == 1 and len(weights) and np.isfinite(weights).all()
    if not good or (weights < 0).any() or not weights.any():
        raise SelectorError(
            key=key,
            expected="a number of 0 or more for each cluster, some of them more",
            got=repr(values),
        )
    return weights
