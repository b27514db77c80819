"""kMQ: k-means clusters share the budget, and within each, quality is drawn, not only taken.

Yu et al. 2024, *Diversify and Conquer: Diversity-Centric Data Selection with Iterative
Refinement*. Each cluster is a partition. Within it, documents are put in
the order in which a draw weighted by quality would take them; a document's score is its place in
that order, measured in its cluster's share of a budget. So one column holds the cluster budgets
of every budget: whatever is asked for, all clusters are drawn from to the same depth, and where a
cluster has no more to give, the others are drawn from more deeply.

What is traded away: a document is in the cut or it is not, so the repeats of a draw with
replacement are dropped, and cluster budgets are met in documents, where a recipe's is in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.errors import SelectorError
from penstock.hashing import hash_ids, mix, uniform
from penstock.selectors.base import Fitting, Partition
from penstock.selectors.encoders.encoders import contents_of
from penstock.selectors.kernels.kmeans import (
    Clustering,
    Clusters,
    cluster_count,
    clusters_parameter,
    fit_clusters,
    lengths,
    sample_vectors,
)
from penstock.selectors.parameters import (
    flag,
    listed,
    model_name,
    model_shape,
    number,
    one_of,
    options,
    whole,
)

__all__ = ["Kmq", "Refinement", "refine", "silhouette"]

_JUDGED = 2000
"""Documents that a number of clusters is judged by: 4 million distances, half a second."""

_FIXED = 1024.0
"""Distances on the lattice are summed in units of 2^-10, as integers, so that no order shows."""

_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """Rounds of short runs that tell which clusters are worth more (the iterative version).

    Published: instructions, of which each round picks new ones by the weights, fine-tunes a model
    and lets a reward model compare its answers with the given ones; a cluster's signal is the mean
    of the difference. In pretraining there is no answer to compare: a cluster's signal is how much
    the loss on held-out documents of its own fell over the round. Each round trains the model of
    the round before on a part of the pool of its own, so that documents are new to it, and the
    first, with nothing before it to improve on, gives no signal.

    Args:
        rounds: Of runs; as published. Weights are updated after each but the first.
        tokens: Of a round.
        shape: Layers, width and heads of the model.
        batch_tokens: Of a step.
        lr: The highest learning rate.
        temperature: T of :func:`refine`, in bits per byte. Published: 1, of rewards; losses of
            clusters fall by some hundredths more or less than each other.
        held_out: Documents of each cluster that judge, about.
    """

    rounds: int = 3
    tokens: int = 500_000
    shape: Sequence[int] = (2, 128, 4)
    batch_tokens: int = 2048
    lr: float = 3e-3
    temperature: float = 0.05
    held_out: int = 20

    @classmethod
    def of(cls, given: Any) -> Refinement:
        """Of a recipe's ``true`` or mapping.

        Raises:
            SelectorError: A key or a value of it is wrong; begins with ``refine``.
        """
        own = cls(**options("refine", given, [field.name for field in fields(cls)]))
        return cls(
            rounds=whole("refine.rounds", own.rounds, least=2),
            tokens=whole("refine.tokens", own.tokens),
            shape=model_shape("refine.shape", own.shape),
            batch_tokens=whole("refine.batch_tokens", own.batch_tokens),
            lr=number("refine.lr", own.lr),
            temperature=number("refine.temperature", own.temperature),
            held_out=whole("refine.held_out", own.held_out),
        )


class Kmq:
    """Scores documents by when their cluster's draw takes them.

    Where a default differs from the paper, the published value is given with the reason. The
    paper takes 10,000 of 196,000 instructions; figures are from a pool of 65,686 web documents.

    Args:
        quality: Another column that draws are weighted by; without one, all documents of a
            cluster are equal, the paper's kM-random. Published: DEITA's grades, 1 to 6.
        budget: ``proportional`` to the documents of a cluster, as published, or ``equal``, as in
            the published code, which favours what is rare and spends a small cluster whole. The
            code's ``floor(b / k)`` loses the remainder and what small clusters cannot give; here
            both go to the others.
        replace: Draw with replacement, as published: a cluster whose quality lies in few
            documents then gives fewer of them, for repeats use up its budget. Default: without,
            as in the published code, since a repeat is no document and a token budget is met in
            full either way.
        temperature: Documents are drawn with probabilities as softmax(quality / temperature).
            Published: 1, for grades.
        standardise: Measure quality in its standard deviations within the cluster first.
            Published: as it is, in the code even cast to integers. A column's unit is arbitrary:
            softmax of a probability hardly prefers anything, and softmax of a rank is no draw
            any more. Grades of 1 to 6 spread by 2.5 at most, so a temperature of 1 is of the
            same order as there.
        weights: For each cluster, from :func:`refine`: they multiply the cluster budgets, and 0
            is never taken. With ``budget: equal`` they are the budgets, as published.
        refine: Find the weights by short training runs, over which what helps gets more:
            ``true``, or a mapping with :class:`Refinement`'s keys.
        clusters: How many; a list is chosen from by silhouette, as published; ``auto`` is the
            square root of the pool. Silhouettes of web text choose next to nothing: they fall
            from 0.09 for 2 clusters to 0.04 for 32 and 0.02 for 256.
        metric: ``euclidean``, as published, or ``spherical``.
        encoder: As in :mod:`penstock.selectors.encoders.embedding`.
        sample: Documents that clusters are fitted on, about.
        iterations: Of k-means, at most. Published: 300. No centroid moved after 46 to 211, and
            those after the hundredth lowered the loss by 0.1 % at most.
        restarts: Of k-means. Published: 5. The losses of three starts differed by 0.1 % at most.
    """

    summary: ClassVar[str] = "clusters share the budget, better documents likelier to be drawn"
    paper: ClassVar[str] = "Yu et al. 2024, Diversify and Conquer (kMQ)"
    version: ClassVar[int] = 1
    paths: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(
        self,
        *,
        quality: str | None = None,
        budget: str = "proportional",
        replace: bool = False,
        temperature: float = 1.0,
        standardise: bool = True,
        weights: Sequence[float] | None = None,
        refine: bool | Mapping[str, Any] | None = None,
        clusters: int | str | Sequence[int] = "auto",
        metric: str = "euclidean",
        encoder: str = "static",
        sample: int = 100_000,
        iterations: int = 100,
        restarts: int = 1,
    ) -> None:
        if quality is not None and (not isinstance(quality, str) or not quality):
            raise SelectorError(f"quality: expected the name of a column, got {quality!r}")
        self.quality = quality
        self.budget = one_of("budget", budget, "proportional", "equal")
        self.replace = flag("replace", replace)
        self.temperature = number("temperature", temperature)
        self.standardise = flag("standardise", standardise)
        if refine and weights is not None:
            raise SelectorError("refine: expected no weights beside it, got both; give one")
        self.refinement = None if not refine else Refinement.of(refine)
        self.weights: list[float] | None = None
        if weights is not None:
            self.weigh(weights)
        self.clusters = tuple(
            clusters_parameter("clusters", one) for one in listed("clusters", clusters)
        )
        self.metric = one_of("metric", metric, "euclidean", "spherical")
        self.encoder = model_name("encoder", encoder)
        self.sample = whole("sample", sample)
        self.iterations = whole("iterations", iterations)
        self.restarts = whole("restarts", restarts)
        self.clusters_: Clusters | None = None

    @property
    def partitions(self) -> int:
        """One for each cluster."""
        return len(self._fitted())

    def weigh(self, weights: Sequence[float]) -> None:
        """Have these multiply the cluster budgets, one for each cluster."""
        self.weights = _weights("weights", weights).tolist()

    def identity(self) -> Mapping[str, Any]:
        """The hyperparameters, and the contents of the encoder's directory if it is one.

        Raises:
            SelectorError: The weights that were to be found were not given yet.
        """
        if self.refinement is not None and self.weights is None:
            raise SelectorError(
                "refine: expected weights, which `penstock curate` finds first; here, call `weigh`"
            )
        own = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        del own["refinement"]
        return {**own, "encoder": contents_of(self.encoder)}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Cluster a sample.

        Returns:
            Facts: the sample, the clusters' number and sizes in it, the loss, the silhouettes if
            there was a choice.

        Raises:
            SelectorError: There is no text, there are fewer documents than clusters, or the
                weights are not one for each cluster.
        """
        self.clusters_ = None
        vectors = sample_vectors(fitting, self.encoder, self.sample)
        counts = [cluster_count(one, fitting.pool_size, len(vectors)) for one in self.clusters]
        best, facts = self._chosen(vectors, counts, fitting)
        if self.weights is not None and len(self.weights) != len(best.clusters):
            raise SelectorError(
                f"weights: expected {len(best.clusters)} numbers, one for each cluster, got "
                f"{len(self.weights)}; fix clusters, and make the weights of the same clusters"
            )
        self.clusters_ = best.clusters
        return {**best.facts, **facts}

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """The nearest cluster, the lowest of equally near ones: (n,) int64."""
        return self._fitted().nearest(vectors).numbers

    def score(self, partition: Partition) -> np.ndarray:
        """(n,) float32, minus the budget at which the document is drawn, in units of its cluster's
        share; NaN for a document without a token or without a quality.

        A cluster's first draw is due at a part of its share that is drawn by hash, from 0 to the
        whole, so that with a hundredth of the pool asked for, a cluster of ten gives a document
        in one case of ten, and none is at a disadvantage for being in a small cluster.
        """
        scores = np.full(len(partition), np.nan, np.float32)
        takeable = partition.vectors.any(axis=1)
        if self.quality is not None:
            assert partition.quality is not None
            takeable &= np.isfinite(partition.quality)
        rows = np.flatnonzero(takeable)
        share = float(len(rows)) if self.budget == "proportional" else 1.0
        if self.weights is not None:
            share *= self.weights[partition.number]
        if not len(rows) or not share:
            return scores
        logits = self._logits(partition, rows)
        # Gumbel noise: the highest sums are a draw without replacement, one after another.
        noise = -np.log(-np.log(_uniform(partition.hashes[rows], "draw")))
        order = np.argsort(-(logits + noise), kind="stable")
        due = np.arange(1, len(rows) + 1, dtype=np.float64)
        if self.replace:
            uniforms = _uniform(partition.hashes[rows[order]], "repeat")
            due = _first_draws(np.exp(logits[order]), uniforms)
        due -= _uniform(partition.hashes[rows[:1]], "start")
        scores[rows[order]] = np.maximum(-due / share, _LOWEST)
        return scores

    def save(self, directory: Path) -> None:
        """Write the centroids."""
        self._fitted().save(directory / "clusters.npy")

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        spherical = self.metric == "spherical"
        self.clusters_ = Clusters.load(directory / "clusters.npy", spherical=spherical)

    def _fitted(self) -> Clusters:
        if self.clusters_ is None:
            raise SelectorError("kmq: expected a fitted selector; call fit or load first")
        return self.clusters_

    def _chosen(
        self, vectors: np.ndarray, counts: Sequence[int], fitting: Fitting
    ) -> tuple[Clustering, dict[str, Any]]:
        """The clustering with the highest silhouette, the first of equals, and the figures."""
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
        """Logarithms of the chances to be drawn, the highest 0: (m,) float64."""
        if self.quality is None or partition.quality is None:
            return np.zeros(len(rows))
        quality = partition.quality[rows].astype(np.float64)
        quality -= quality.max()
        if self.standardise:
            spread = quality.std()
            quality = quality / spread if spread > 0 else np.zeros(len(rows))
        return quality / self.temperature


def refine(
    weights: Sequence[float], signals: Sequence[float], temperature: float | None = 1.0
) -> np.ndarray:
    """The next round's cluster weights from what this round's documents were worth.

    Published: ``w_j s_j``, renormalised, which a negative signal breaks; in the code
    ``exp(s_j)``, which forgets all rounds but the last. The default is ``w_j exp(s_j / T)``,
    which is neither: rounds add up, and a signal may have any sign.

    Args:
        weights: (k,) of this round, 0 or more; their sum does not matter.
        signals: (k,) what each cluster gave, higher is better: the mean of a reward, or how much a
            held-out loss fell.
        temperature: T, in the unit of the signals; None for the published product.

    Returns:
        (k,) float64, summing to 1.

    Raises:
        SelectorError: The lengths differ, a signal is not finite, or the product needs signals
            of 0 or more, one of them more.
    """
    before = _weights("weights", weights)
    gains = np.asarray(signals, np.float64)
    if gains.shape != before.shape or not np.isfinite(gains).all():
        raise SelectorError(
            f"signals: expected {len(before)} finite numbers, one for each cluster, got {signals!r}"
        )
    if temperature is None:
        if (gains < 0).any() or not (before * gains).any():
            raise SelectorError(
                f"signals: expected numbers of 0 or more to multiply by, got {signals!r}; give a "
                "temperature"
            )
        after = before * gains
    else:
        with np.errstate(divide="ignore"):
            logs = np.log(before) + gains / number("temperature", temperature)
        after = np.exp(logs - logs.max())
    return after / after.sum()


def silhouette(vectors: np.ndarray, labels: np.ndarray) -> float:
    """The mean of (b - a) / max(a, b) over documents (Rousseeuw 1987), at least two clusters.

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
    """At which draw with replacement each new document turns up, (m,) float64, increasing.

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
    """(n,) uint64 hashed again, for what may not depend on other draws, to (n,) float64."""
    strings = pa.array(hashes, pa.uint64()).cast(pa.large_string())
    return uniform(hash_ids(strings, mix("kmq", purpose)))


def _weights(key: str, values: Any) -> np.ndarray:
    """(k,) float64, 0 or more, some of them more."""
    try:
        weights = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        weights = np.empty(0)
    good = weights.ndim == 1 and len(weights) and np.isfinite(weights).all()
    if not good or (weights < 0).any() or not weights.any():
        raise SelectorError(
            f"{key}: expected a number of 0 or more for each cluster, some of them more, got "
            f"{values!r}"
        )
    return weights
