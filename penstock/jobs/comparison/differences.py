"""Paired differences between two arms, their errors, and a verdict in words.

Runs of equal seeds have equal initial weights and an equal order of the data's positions, so arms
are compared seed by seed, and on the same examples. The error of a difference has two parts, each
of this pair of arms alone, since noise differs between mixtures by orders of magnitude:

* over seeds: the standard deviation of the differences by seed, over the root of their number;
* over examples: the standard error of a ratio of sums (Cochran 1977, eq. 6.9), of the differences
  by example, which are means over the seeds.

The squares of both are added. What a pair of seed and example has of its own is in both parts, so
the sum is a little too large, never too small (Cameron, Gelbach and Miller 2011 would subtract it).
A difference is a finding beyond the number of standard errors at which Student's t covers as much
as two of a normal distribution do, 95.45 %, with one degree of freedom less than there are seeds:
13.97, 4.53, 3.31 and 2.87 for two to five. Degrees of freedom of the examples are not added, so few
seeds say little, whatever the number of examples.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from penstock.trainers.evaluation.scores import ratio_of_sums

__all__ = ["BETTER", "UNCLEAR", "WORSE", "Difference", "Terms", "coverage_factor", "difference"]

BETTER, WORSE, UNCLEAR = "better", "worse", "not distinguishable"

COVERED = math.erf(2 / math.sqrt(2))
"""Coverage of two standard errors of a normal distribution: 0.9545."""

Terms: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Values and weights of (n,) examples, float64: a metric is the sum of the first over that of the
second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The metric of one arm less that of another."""

    value: float
    """The mean over seeds."""
    by_seed: tuple[float, ...]
    over_seeds: float | None
    """Standard error over seeds; None of a single one."""
    over_examples: float
    """Standard error over examples."""

    @property
    def stderr(self) -> float | None:
        """The standard error over seeds and examples; None of a single seed."""
        return None if self.over_seeds is None else math.hypot(self.over_seeds, self.over_examples)

    @property
    def margin(self) -> float | None:
        """Half of :attr:`interval`."""
        error = self.stderr
        return None if error is None else coverage_factor(len(self.by_seed) - 1) * error

    @property
    def interval(self) -> list[float] | None:
        """The value less and plus the covering number of standard errors; None of a single seed."""
        margin = self.margin
        return None if margin is None else [self.value - margin, self.value + margin]

    def words(self, lower_is_better: bool) -> str:
        """Return the verdict: better, worse, or not distinguishable, as with a single seed."""
        margin = self.margin
        if margin is None or not abs(self.value) > margin:
            return UNCLEAR
        return BETTER if (self.value < 0) == lower_is_better else WORSE

    @classmethod
    def mean(cls, differences: Sequence[Difference]) -> Difference:
        """Return the mean over evaluations of equal seeds, whose examples are independent."""
        by_seed = [statistics.fmean(own) for own in zip(*(one.by_seed for one in differences))]
        errors = [one.over_examples for one in differences]
        return _of_seeds(by_seed, math.hypot(*errors) / len(differences))


def difference(ours: Sequence[Terms], theirs: Sequence[Terms]) -> Difference:
    """Compute the paired difference of two arms on one evaluation.

    Args:
        ours, theirs: The terms of each seed, in the same order of seeds.

    Raises:
        ValueError: The results are of different examples.
    """
    weights = ours[0][1]
    for _, own in (*ours, *theirs):
        if not np.array_equal(own, weights):
            raise ValueError("expected results on the same examples")
    apart = np.array([mine - other for (mine, _), (other, _) in zip(ours, theirs, strict=True)])
    total = float(weights.sum())
    _, over_examples = ratio_of_sums(apart.mean(axis=0), weights)
    return _of_seeds([float(own.sum()) / total for own in apart], over_examples)


def _of_seeds(by_seed: Sequence[float], over_examples: float) -> Difference:
    count = len(by_seed)
    return Difference(
        value=statistics.fmean(by_seed),
        by_seed=tuple(by_seed),
        over_seeds=statistics.stdev(by_seed) / math.sqrt(count) if count > 1 else None,
        over_examples=over_examples,
    )


def coverage_factor(degrees: int) -> float:
    """Return the number of standard errors within which Student's t lies with :data:`COVERED`.

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    low, high = 0.0, 1.0
    while _covered(high, degrees) < COVERED:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _covered(middle, degrees) < COVERED else (low, middle)
    return high


def _covered(t: float, degrees: int) -> float:
    """Compute P(|T| < t) for whole degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for number in range(2 + odd, degrees - 1, 2):
        term *= square * (number - 1) / number
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
