"""Lines that a comparison begins with: which runs it trains, and about how long they take.

The number of runs and their tokens are known before anything is read, where budgets are numbers.
The time is known when the first run has trained for some seconds: its speed times the tokens of all
runs with a model of that size, without their evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from penstock.display import numbered
from penstock.jobs.plan import Arm
from penstock.recipe import Recipe
from penstock.trainers.spec import OnMetrics, RunSpec

__all__ = ["TimeEstimate", "describe_runs"]

_MEASURED = 10.0
"""Seconds of steps after which the speed of a run is known."""


def describe_runs(recipes: Mapping[Arm, Recipe]) -> str:
    """Describe the runs of a comparison in one line: arms, seeds, tokens.

    Args:
        recipes: The recipe of each arm, multiple, seed and size.
    """
    points: dict[str, list[int | None]] = {}
    for arm, own in recipes.items():
        name = arm.name if arm.multiple == 1 else f"{arm.name} {arm.multiple:g}x"
        name += f" of rung {arm.rung}" if arm.rung else ""
        points.setdefault(name, []).append(own.train.tokens or own.budget.count)
    shown = ", ".join(
        f"{name} {len(tokens)} × {'a share of the pool' if tokens[0] is None else f'{tokens[0]:,}'}"
        for name, tokens in points.items()
    )
    known = [count for tokens in points.values() for count in tokens if count is not None]
    whole = f", {sum(known):,} in all" if len(known) == len(recipes) else ""
    return (
        f"compare: {numbered(len(recipes), 'run')} to train, as seeds × tokens: {shown}{whole}; a "
        "run that exists is not trained again"
    )


@dataclass(slots=True, kw_only=True)
class TimeEstimate:
    """Prints once how long the runs of one size take, by the first that has trained a while.

    Nothing is printed where less than ten seconds are left.
    """

    specs: Collection[RunSpec]
    parallel: int
    """Runs at a time."""
    progress: Callable[[str], None]
    follow: OnMetrics
    """Called with each line, too."""
    _done: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    """Of each run the tokens before its first line, those of its last, and the seconds of steps."""
    _told: bool = False

    def __call__(self, spec: RunSpec, line: Mapping[str, Any]) -> None:
        """Take a line of a run's metrics."""
        if not self._told and "loss" in line and "tokens_per_second" in line:
            self._step(spec, line)
        self.follow(spec, dict(line))

    def _step(self, spec: RunSpec, line: Mapping[str, Any]) -> None:
        tokens = int(line["tokens"])
        # The first step includes warm-up: the speed is that of the steps after it.
        first, last, seconds = self._done.get(spec.fingerprint, (tokens, tokens, 0.0))
        seconds += (tokens - last) / line["tokens_per_second"]
        self._done[spec.fingerprint] = first, tokens, seconds
        if seconds <= 0 or (seconds < _MEASURED and tokens < spec.tokens):
            return
        self._told = True
        speed = (tokens - first) / seconds
        alike = _alike(self.specs, spec)
        spent = sum(self._done.get(own.fingerprint, (0, 0, 0))[1] for own in alike)
        left = sum(own.tokens for own in alike) - spent
        at_once = max(1, min(self.parallel, len(alike)))
        duration = timedelta(seconds=round(left / speed / at_once))
        if duration.total_seconds() < _MEASURED:
            return
        self.progress(
            f"compare: at {speed:,.0f} tokens/s a run, {left:,} tokens of "
            f"{numbered(len(alike), 'run')} take about {duration} more, without evaluations"
        )


def _alike(specs: Collection[RunSpec], spec: RunSpec) -> Sequence[RunSpec]:
    """Return the runs with a model of the same size."""
    return [own for own in specs if own.train.model == spec.train.model]
