"""Results of the arms of a comparison at one size: metrics, differences, the token multiplier."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.errors import TrainingError
from penstock.jobs.comparison.differences import Difference, Terms, difference
from penstock.jobs.comparison.multipliers import multiplier_words
from penstock.jobs.plan import SELECTED
from penstock.recipe import Recipe
from penstock.storage import AnyPath
from penstock.trainers.evaluation.scores import LOWER_IS_BETTER, METRICS, ratio_of_sums
from penstock.trainers.spec import RunResult

__all__ = ["ArmsAtSize", "Point", "UnfilledMultiple", "token_multiplier", "with_spread"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One arm at one budget, over all seeds."""

    arm: str
    multiple: float
    tokens: int
    seeds: tuple[int, ...]
    runs: tuple[RunResult, ...]
    """Runs in the order of :attr:`seeds`."""
    shards: tuple[AnyPath, ...]
    _terms: dict[tuple[str, str], list[Terms]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def label(self) -> str:
        """The arm, and the multiple of the budget where it is not 1."""
        return self.arm if self.multiple == 1 else f"{self.arm} {self.multiple:g}x"

    def measured(self, target: str, metric: str) -> dict[str, Any] | None:
        """Return a metric over the seeds; None where the evaluation does not have it.

        Returns:
            ``mean``, ``values`` by seed, ``std``, the sample standard deviation, None of a single
            seed; and ``stderr`` of the mean: ``seeds``, None of a single one, and ``examples``.
        """
        found = [getattr(run, metric).get(target) for run in self.runs]
        if not all(found):
            return None
        values = [own["mean"] for own in found]
        std = statistics.stdev(values) if len(values) > 1 else None
        terms = self.terms(target, metric)
        mean_terms = np.mean([own for own, _ in terms], axis=0)
        return {
            "mean": statistics.fmean(values),
            "std": std,
            "values": values,
            "stderr": {
                "seeds": None if std is None else std / math.sqrt(len(values)),
                "examples": ratio_of_sums(mean_terms, terms[0][1])[1],
            },
        }

    def mean(self, target: str, metric: str = "bits_per_byte") -> float:
        """Return the mean of a metric that the evaluation has."""
        return statistics.fmean(getattr(run, metric)[target]["mean"] for run in self.runs)

    def terms(self, target: str, metric: str) -> list[Terms]:
        """Read the values of each example of each seed."""
        if (target, metric) not in self._terms:
            self._terms[target, metric] = [run.examples(target).terms(metric) for run in self.runs]
        return self._terms[target, metric]


@dataclass(frozen=True, slots=True)
class UnfilledMultiple:
    """A multiple of the baseline's budget that the pool cannot fill without repeating text."""

    multiple: float
    tokens: int
    reason: str

    def __str__(self) -> str:
        return f"{self.multiple:g}x, {self.tokens:,} tokens: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmsAtSize:
    """The results of all arms with one model and one budget, and the baseline at its multiples."""

    recipe: Recipe
    """The recipe of the arm ``selected``."""
    targets: tuple[str, ...]
    """The names of the evaluations."""
    points: tuple[Point, ...]
    left_out: tuple[UnfilledMultiple, ...] = ()

    @property
    def metric(self) -> str:
        """The metric of verdicts and multipliers."""
        return self.recipe.compare.metric

    @property
    def judged(self) -> list[str]:
        """The evaluations that have the metric."""
        return [target for target in self.targets if self._has(target, self.metric)]

    @property
    def metrics(self) -> list[str]:
        """The metrics that any evaluation has."""
        return [name for name in METRICS if any(self._has(one, name) for one in self.targets)]

    def _has(self, target: str, metric: str) -> bool:
        return target in getattr(self.points[0].runs[0], metric)

    def at_equal_tokens(self) -> list[Point]:
        """Return every arm at the recipe's budget, ``selected`` first."""
        return [point for point in self.points if point.multiple == 1]

    def point(self, arm: str) -> Point:
        """Return an arm at the recipe's budget."""
        return next(point for point in self.at_equal_tokens() if point.arm == arm)

    def baseline(self) -> list[Point]:
        """Return the baseline at each multiple, rising."""
        name = self.recipe.compare.baseline
        return [point for point in self.points if point.arm == name]

    def shown(self) -> list[Point]:
        """Return every arm at equal tokens, then the baseline at its multiples."""
        return [*self.at_equal_tokens(), *self.baseline()[1:]]

    # -- differences ----------------------------------------------------------------------------

    def difference(self, arm: Point, target: str, metric: str | None = None) -> Difference:
        """Return the paired difference of an arm, at any multiple, from the baseline at 1x."""
        metric = metric or self.metric
        theirs = self.baseline()[0].terms(target, metric)
        return difference(arm.terms(target, metric), theirs)

    def words(self, arm: Point, target: str, metric: str | None = None) -> str:
        """Return the verdict on an arm against the baseline."""
        metric = metric or self.metric
        return self.difference(arm, target, metric).words(metric in LOWER_IS_BETTER)

    # -- the multiplier -------------------------------------------------------------------------

    def multiplier(self, target: str, arm: str = SELECTED) -> float | str:
        """Return the tokens that the baseline needs to reach an arm, over that arm's tokens."""
        return self._multiplier(target, arm, 0.0)

    def multiplier_interval(self, target: str, arm: str = SELECTED) -> list[float | str] | None:
        """Return the multipliers at both ends of the interval of what the arm reached.

        The interval is that of the paired difference between the arm and the baseline's curve at
        the multiplier; None of a single seed.
        """
        point, curve = self.point(arm), self.baseline()
        found = self.multiplier(target, arm)
        if isinstance(found, str):
            at = float(curve[0 if found[0] == "<" else -1].tokens)
        else:
            at = found * point.tokens
        margin = difference(point.terms(target, self.metric), self._curve_at(at, target)).margin
        if margin is None:
            return None
        return [self._multiplier(target, arm, margin), self._multiplier(target, arm, -margin)]

    def _multiplier(self, target: str, arm: str, more: float) -> float | str:
        """Compute the multiplier of an arm whose metric is worse by ``more``."""
        point, sign = self.point(arm), 1 if self.metric in LOWER_IS_BETTER else -1
        return token_multiplier(
            [(one.tokens, sign * one.mean(target, self.metric)) for one in self.baseline()],
            point.tokens,
            sign * point.mean(target, self.metric) + more,
        )

    def _curve_at(self, tokens: float, target: str) -> list[Terms]:
        """Return the baseline's terms of each seed, interpolated in log tokens."""
        curve = self.baseline()
        above = next((n for n, one in enumerate(curve) if one.tokens >= tokens), len(curve) - 1)
        low, high = curve[max(0, above - 1)], curve[above]
        share = 0.0
        if high.tokens > low.tokens:
            share = math.log(tokens / low.tokens) / math.log(high.tokens / low.tokens)
            share = min(1.0, max(0.0, share))
        both = zip(low.terms(target, self.metric), high.terms(target, self.metric), strict=True)
        return [((1 - share) * a + share * b, weights) for (a, weights), (b, _) in both]

    def shown_multiplier(self, point: Point, target: str) -> str:
        """Return an arm's multiplier with its interval as text; empty for the baseline."""
        if point.arm == self.recipe.compare.baseline or target not in self.judged:
            return ""
        interval = self.multiplier_interval(target, point.arm)
        return multiplier_words(self.multiplier(target, point.arm), interval)

    # -- plain data -----------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Return the arms and verdicts as plain data."""
        name, arms = self.recipe.compare.baseline, {}
        for point in self.at_equal_tokens():
            arms[point.arm] = {**self._measured(point), "seeds": list(point.seeds)}
        if len(self.baseline()) > 1 or self.left_out:
            arms[name]["multiples"] = [
                {"multiple": point.multiple, **self._measured(point)} for point in self.baseline()
            ]
        if self.left_out:
            arms[name]["left_out"] = [
                {"multiple": one.multiple, "tokens": one.tokens, "reason": one.reason}
                for one in self.left_out
            ]
        return {"arms": arms, "verdict": self._verdicts()}

    def _measured(self, point: Point) -> dict[str, Any]:
        found = {
            metric: {
                target: measured
                for target in self.targets
                if (measured := point.measured(target, metric))
            }
            for metric in self.metrics
        }
        return {**found, "tokens": point.tokens, "runs": [str(run.path) for run in point.runs]}

    def _verdicts(self) -> dict[str, dict[str, Any]]:
        return {
            point.arm: {
                target: {
                    "difference": (own := self.difference(point, target)).value,
                    "interval": own.interval,
                    "words": self.words(point, target),
                }
                for target in self.judged
            }
            for point in self.at_equal_tokens()
            if point.arm != self.recipe.compare.baseline
        }


def with_spread(measured: dict[str, Any] | None, form: str) -> str:
    """Format a mean, with its standard deviation where there is one; empty without a mean."""
    if measured is None:
        return ""
    mean, std = f"{measured['mean']:{form}}", measured["std"]
    return mean if std is None else f"{mean} ± {std:{form}}"


def token_multiplier(
    baseline: Sequence[tuple[int, float]], tokens: int, reached: float
) -> float | str:
    """Compute how many times an arm's tokens the baseline needs for the same value of a metric.

    Args:
        baseline: Tokens and values of the baseline, tokens rising; a lower value is better.
        tokens: Tokens of the arm.
        reached: The arm's value.

    Returns:
        The multiple by linear interpolation of values in log tokens, at the first crossing; outside
        the measured range a bound, as ``">4"`` or ``"<1"``.

    Raises:
        TrainingError: A value is not finite.
    """
    for value in (reached, *(value for _, value in baseline)):
        if not math.isfinite(value):
            raise TrainingError(
                "a run diverged",
                key="compare",
                expected="a finite metric",
                got=value,
                fix="lower train.lr and run again",
            )
    first_tokens, first = baseline[0]
    if first <= reached:
        bound = first_tokens / tokens
        return 1.0 if first == reached and bound == 1 else f"<{bound:g}"
    for (low, before), (high, after) in itertools.pairwise(baseline):
        if after <= reached:
            share = (before - reached) / (before - after)
            return math.exp(math.log(low) + share * math.log(high / low)) / tokens
    return f">{baseline[-1][0] / tokens:g}"
