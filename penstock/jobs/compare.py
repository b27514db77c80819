"""Compare the arms of a recipe: trained at equal tokens, evaluated on held-out text.

The arm ``selected`` is the recipe itself; the others are named overrides of it. Every arm is cut
for each seed, and trained with initial weights and a data order of that seed; corpus, columns and
the recipe's own tokenizer are shared. The baseline is also trained at multiples of the budget, each
with its own full schedule; the token multiplier is read from these runs: measured, not
extrapolated.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.artefact import Workspace
from penstock.cluster import cpus
from penstock.display import html_table, text_table
from penstock.errors import RecipeError, TrainingError
from penstock.jobs.curate import Curated, Progress, curate
from penstock.jobs.plan import SELECTED, Arm, Plan, plan_arms
from penstock.jobs.train import check_training, read_evaluations, run_spec
from penstock.pipeline.runner import Runner
from penstock.recipe import Recipe
from penstock.storage import AnyPath
from penstock.trainers.run import train_all
from penstock.trainers.spec import OnMetrics, RunResult

__all__ = [
    "Comparison",
    "Point",
    "compare",
    "curate_arms",
    "token_multiplier",
    "with_spread",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One arm at one budget, over all seeds."""

    arm: str
    multiple: float
    tokens: int
    runs: tuple[RunResult, ...]
    """Runs in the order of ``compare.seeds``."""
    shards: tuple[AnyPath, ...]

    @property
    def label(self) -> str:
        """The arm, and the multiple of the budget where it is not 1."""
        return self.arm if self.multiple == 1 else f"{self.arm} {self.multiple:g}x"

    def bits(self, target: str) -> dict[str, Any]:
        """Return the bits per byte over the seeds: ``mean``, ``values``, and ``std``, the sample
        standard deviation, None of a single seed."""
        return _over_seeds([run.bits_per_byte[target]["mean"] for run in self.runs])

    def mean(self, target: str) -> float:
        """Return the mean of the bits per byte."""
        return float(self.bits(target)["mean"])

    def accuracy(self, target: str) -> dict[str, Any] | None:
        """Return the accuracy over the seeds, as :meth:`bits`; None without any."""
        found = [run.accuracy[target]["mean"] for run in self.runs if target in run.accuracy]
        return _over_seeds(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The results of all arms."""

    recipe: Recipe
    selected: Curated
    """The recipe's own cut, at the first seed."""
    targets: tuple[str, ...]
    points: tuple[Point, ...]
    files: tuple[AnyPath, ...] = ()
    """The summary, plots and report, where they were written."""

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

    def multiplier(self, target: str, arm: str = SELECTED) -> float | str:
        """Return the tokens that the baseline needs to reach an arm, over that arm's tokens."""
        point = self.point(arm)
        return token_multiplier(
            [(other.tokens, other.mean(target)) for other in self.baseline()],
            point.tokens,
            point.mean(target),
        )

    def __repr__(self) -> str:
        lines = [f"  {' | '.join(map(str, row))}" for row in self._rows()]
        return text_table("Comparison: arm | tokens | target | bits per byte | multiplier", lines)

    def _repr_html_(self) -> str:
        names = ("arm", "tokens", "target", "bits per byte", "token multiplier")
        return html_table("Comparison", names, self._rows())

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        return [
            (
                point.label,
                f"{point.tokens:,}",
                target,
                with_spread(point.bits(target), ".4f"),
                self.shown_multiplier(point, target),
            )
            for target in self.targets
            for point in self.shown()
        ]

    def shown(self) -> list[Point]:
        """Return every arm at equal tokens, then the baseline at its multiples."""
        return [*self.at_equal_tokens(), *self.baseline()[1:]]

    def shown_multiplier(self, point: Point, target: str) -> str:
        """Return an arm's multiplier as text; empty for the baseline."""
        if point.arm == self.recipe.compare.baseline:
            return ""
        multiplier = self.multiplier(target, point.arm)
        return f"{multiplier:.2f}" if isinstance(multiplier, float) else multiplier

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock compare --json`` prints."""
        arms: dict[str, Any] = {}
        for point in self.at_equal_tokens():
            arms[point.arm] = {**self._measured(point), "seeds": list(self.recipe.compare.seeds)}
        arms[self.recipe.compare.baseline]["multiples"] = [
            {"multiple": point.multiple, **self._measured(point)} for point in self.baseline()
        ]
        return {
            "arms": arms,
            "token_multiplier": {target: self.multiplier(target) for target in self.targets},
        }

    def _measured(self, point: Point) -> dict[str, Any]:
        found = {target: point.accuracy(target) for target in self.targets}
        accuracy = {target: values for target, values in found.items() if values}
        return {
            "bits_per_byte": {target: point.bits(target) for target in self.targets},
            **({"accuracy": accuracy} if accuracy else {}),
            "tokens": point.tokens,
            "runs": [str(run.path) for run in point.runs],
        }


def with_spread(measured: dict[str, Any] | None, form: str) -> str:
    """Format a mean, with its standard deviation where there is one; empty without a mean."""
    if measured is None:
        return ""
    mean, std = f"{measured['mean']:{form}}", measured["std"]
    return mean if std is None else f"{mean} ± {std:{form}}"


def _over_seeds(values: list[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def token_multiplier(
    baseline: Sequence[tuple[int, float]], tokens: int, reached: float
) -> float | str:
    """Compute how many times an arm's tokens the baseline needs for the same bits per byte.

    Args:
        baseline: Tokens and bits per byte of the baseline, tokens rising.
        tokens: Tokens of the arm.
        reached: Bits per byte of the arm.

    Returns:
        The value by linear interpolation of bits per byte in log tokens, at the first crossing;
        outside the measured range a bound, as ``">4"`` or ``"<1"``.

    Raises:
        TrainingError: A value is not finite.
    """
    for value in (reached, *(value for _, value in baseline)):
        if not math.isfinite(value):
            raise TrainingError(
                "a run diverged",
                key="compare",
                expected="finite bits per byte",
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


def compare(
    recipe: Recipe,
    runner: Runner,
    progress: Progress = lambda line: None,
    on_metrics: OnMetrics | None = None,
    free: Callable[[], None] = lambda: None,
) -> Comparison:
    """Cut, train and evaluate every arm for every seed.

    Args:
        recipe: The recipe with its arms.
        runner, progress, free: As of :func:`penstock.jobs.curate.curate`.
        on_metrics: Called with the run and each line of its ``metrics.jsonl``.

    Raises:
        RecipeError: There is nothing to evaluate on, or an arm's override is wrong.
        BadInput, Failure: As :func:`penstock.jobs.curate.curate` and training do.
    """
    if not recipe.evaluate:
        raise RecipeError(key="evaluate", expected="at least one held-out file", got="none")
    plans = plan_arms(recipe)
    plan = next(iter(plans.values()))
    for own in plans.values():
        check_training(own.train.train)
    evaluations = read_evaluations(plan.evaluate)
    with Workspace.driving(plan.work) as workspace:
        curated = curate_arms(plans, runner, progress, free)
        free()
        specs = [
            run_spec(own.train, curated[arm].shards.path, evaluations) for arm, own in plans.items()
        ]
        each = recipe.train.workers * recipe.train.cpus
        parallel = recipe.compare.parallel or max(1, cpus() // each)
        progress(f"train: {len(specs)} runs, {parallel} at a time")
        trained = train_all(specs, workspace, parallel=parallel, on_metrics=on_metrics)
    results = dict(zip(plans, trained))
    points: dict[tuple[str, float], list[Arm]] = {}
    for arm in plans:
        points.setdefault((arm.name, arm.multiple), []).append(arm)
    return Comparison(
        recipe=recipe,
        selected=curated[Arm(SELECTED, 1.0, recipe.compare.seeds[0])],
        targets=tuple(item.name for item in evaluations),
        points=tuple(
            Point(
                arm=name,
                multiple=multiple,
                tokens=results[arms[0]].tokens,
                runs=tuple(results[arm] for arm in arms),
                shards=tuple(curated[arm].shards.path for arm in arms),
            )
            for (name, multiple), arms in points.items()
        ),
    )


def curate_arms(
    plans: Mapping[Arm, Plan],
    runner: Runner,
    progress: Progress = lambda line: None,
    free: Callable[[], None] = lambda: None,
) -> dict[Arm, Curated]:
    """Curate every arm with one tokenizer: the recipe's own, of the first arm.

    An arm that cleans otherwise has another pool, on which another tokenizer would be trained, and
    its tokens would be other ones. An arm that names a tokenizer has that.
    """
    curated: dict[Arm, Curated] = {}
    shared: Curated | None = None
    for arm, plan in plans.items():
        progress(f"cut: arm {arm.name} at {arm.multiple:g}x, seed {arm.seed}")
        same = shared is not None and plan.recipe.tokenizer == shared.recipe.tokenizer
        tokenizer = shared.tokenizer if shared is not None and same else None
        curated[arm] = curate(plan, runner, free=free, tokenizer=tokenizer)
        shared = shared or curated[arm]
    return curated
