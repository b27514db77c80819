"""The result of a comparison, at the recipe's size and its rungs, as text and plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.display import html_table, numbered, text_table
from penstock.jobs.comparison.agreement import agreements
from penstock.jobs.comparison.arms import ArmsAtSize, Point, with_spread
from penstock.jobs.comparison.caveats import caveats
from penstock.jobs.comparison.differences import UNCLEAR, coverage_factor
from penstock.jobs.comparison.multipliers import bound_note, describe_need
from penstock.jobs.curate import Curated
from penstock.jobs.plan import SELECTED
from penstock.recipe import ModelShape
from penstock.storage import AnyPath

__all__ = ["AGREEMENT", "HEADINGS", "Comparison"]

HEADINGS = {
    "bits_per_byte": "bits per byte",
    "text_bits_per_byte": "of texts",
    "choice_probability": "p(right)",
    "margin": "margin",
    "accuracy": "accuracy",
}
"""The heading of a metric whose name is too long for a terminal; ``text_bits_per_byte`` is beside
``bits_per_byte``."""

_FORMS = {"bits_per_byte": ".4f", "choice_probability": ".1%", "accuracy": ".1%"}
"""The format of a metric's values; ``.3f`` by default."""


AGREEMENT = ("target", "rungs", "arms", "pairs", "in one order", "Kendall's tau", "beyond errors")
"""The headings of :meth:`Comparison.agreement_rows`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(ArmsAtSize):
    """The results of all arms, at the recipe's own size and at its rungs."""

    selected: Curated
    """The recipe's own cut, at the first seed."""
    rungs: tuple[ArmsAtSize, ...] = ()
    """The sizes of ``compare.rungs``."""
    files: tuple[AnyPath, ...] = ()
    """The summary, plots and report, where they were written."""

    @property
    def sizes(self) -> list[ArmsAtSize]:
        """The recipe's own size, then the rungs."""
        return [self, *self.rungs]

    @property
    def selected_arm(self) -> str:
        """The arm and the seed of :attr:`selected`, in words."""
        return f"arm {SELECTED}, seed {self.point(SELECTED).seeds[0]}"

    @property
    def notes(self) -> list[str]:
        """Sentences that belong beside the figures: the error that is meant, and the limits."""
        left = [f"Left out: {self.recipe.compare.baseline} at {one}." for one in self.left_out]
        shown = [
            self.shown_multiplier(point, target)
            for target in self.judged
            for point in self.at_equal_tokens()
        ]
        bounds = bound_note(self.recipe.compare.baseline, shown)
        return [*_error_note(self), *bounds, *left, *caveats(self, self.selected)]

    def __repr__(self) -> str:
        names, rows = self._table()
        lines = [f"  {' | '.join(map(str, row))}" for row in rows]
        return text_table(f"Comparison: {' | '.join(names)}", lines)

    def _repr_html_(self) -> str:
        return html_table("Comparison", *self._table())

    def _table(self) -> tuple[Sequence[str], list[tuple[str, ...]]]:
        names = ("arm", "tokens", "target", HEADINGS[self.metric], "verdict", "token multiplier")
        rows: list[tuple[str, ...]] = [
            (
                point.label,
                f"{point.tokens:,}",
                target,
                self.shown_metric(point, target, self.metric),
                self.shown_verdict(point, target),
                self.shown_multiplier(point, target),
            )
            for target in self.judged
            for point in self.shown()
        ]
        return names, rows

    @staticmethod
    def shown_metric(point: Point, target: str, metric: str) -> str:
        """Return a metric with its standard deviation over seeds as text."""
        return with_spread(point.measured(target, metric), _FORMS.get(metric, ".3f"))

    def shown_verdict(self, point: Point, target: str) -> str:
        """Return the difference from the baseline with half of its interval, and the words."""
        if point is self.baseline()[0] or target not in self.judged:
            return ""
        found = self.difference(point, target)
        half = "" if found.margin is None else f" ± {found.margin:.4f}"
        return f"{found.value:+.4f}{half}: {self.words(point, target)}"

    def conclusion(self, target: str) -> str:
        """Return the verdict on the arm ``selected`` as a sentence, with its figures."""
        point, baseline = self.point(SELECTED), self.recipe.compare.baseline
        found, words = self.difference(point, target), self.words(point, target)
        half = "" if found.margin is None else f" ± {found.margin:.4f}"
        name, than = self.metric.replace("_", " "), "from" if words == UNCLEAR else "than"
        return (
            f"{target}: at {point.tokens:,} tokens, {SELECTED} is {words} {than} {baseline} "
            f"({found.value:+.4f}{half} {name}, "
            f"{numbered(len(point.seeds), 'seed')}); "
            f"{describe_need(baseline, self.multiplier(target), self.multiplier_interval(target))}."
        )

    def agreement_rows(self) -> list[tuple[str, ...]]:
        """Return rows of :data:`AGREEMENT`, for each evaluation and two sizes."""
        return [
            (
                target,
                " and ".join(map(str, own["rungs"])),
                str(len(own["arms"])),
                str(own["pairs"]),
                f"{own['equally_ordered']:.0%}",
                "" if own["kendall_tau"] is None else f"{own['kendall_tau']:.2f}",
                f"{own['distinguishable']['equally_ordered']:.0%} of {told}"
                if (told := own["distinguishable"]["pairs"])
                else "0 pairs",
            )
            for target, found in agreements(self.sizes).items()
            for own in found
        ]

    def summary(self) -> dict[str, Any]:
        """Return the object that ``penstock compare --json`` prints."""
        own = ArmsAtSize.summary(self)
        found = {
            **own,
            "metric": self.metric,
            "metrics": self.metrics,
            "targets": list(self.targets),
            "token_multiplier": {target: self.multiplier(target) for target in self.judged},
            "token_multiplier_interval": {
                target: self.multiplier_interval(target) for target in self.judged
            },
            "notes": self.notes,
        }
        if self.rungs:
            found["rungs"] = [self._size(size) for size in self.sizes]
            found["agreement"] = agreements(self.sizes)
        return found

    def _size(self, size: ArmsAtSize) -> dict[str, Any]:
        model, point = size.recipe.train.model, size.points[0]
        weights = {"weights": model.parameters} if isinstance(model, ModelShape) else {}
        return {
            "model": model.model_dump(mode="json"),
            **weights,
            "tokens": point.tokens,
            "seeds": list(point.seeds),
            **({} if size is self else size.summary()),
        }


def _error_note(size: ArmsAtSize) -> list[str]:
    """Describe the intervals of verdicts; nothing of a single seed, which has none."""
    seeds = len(size.points[0].seeds)
    if seeds == 1:
        return ["One seed has no error over seeds: no difference is distinguishable."]
    return [
        f"Verdicts: the difference from {size.recipe.compare.baseline} by seed and by example, ± "
        f"{coverage_factor(seeds - 1):.2f} standard errors over seeds and examples (Student's t, "
        f"{numbered(seeds - 1, 'degree', 'degrees')} of freedom, covers 95.45 % as two do of a "
        "normal distribution)."
    ]
