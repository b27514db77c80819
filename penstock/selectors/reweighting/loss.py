"""Weights from losses: Sow et al. 2025, *Dynamic Loss-Based Sample Reweighting for Improved Large
Language Model Pretraining*.

Losses are scaled to [-1, 1] between the batch's least and greatest; a strategy maps them to values,
and a softmax makes weights of the values. Differences from the published code: the statistics are
those of the whole global batch, not of one accumulation step of one node, and samples without a
predicted token, which it divides by zero, are left out.

**Batch size.** The bounds of a larger batch are farther apart, so that one temperature weighs less:
of normal losses, ``linupper`` with 0.4 gives a sample one standard deviation below the mean 0.36 of
the mean weight among 8, 0.48 among 64, 0.56 among 512 and 0.62 among 4,096. Published results are
of micro-batches. With ``tails`` the bounds are quantiles, which do not move. With ``block`` each
block of so many samples of the global batch is weighted by itself, as published: the weight
among 8 holds for any batch. Blocks are in the order of the data, so they are the same for any
number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from penstock.selectors.parameters import Algorithm, recipe_default
from penstock.selectors.reweighting.base import BatchRequirements, ScoredBatch, TrainingProgress
from penstock.selectors.reweighting.schedule import Duration, Temperature

__all__ = ["LossReweighter", "softmax", "standardised"]

_LEAST_RANGE = 1e-6
"""Losses that differ by less are taken for equal, in nats; the published value."""

STRATEGIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linupper": lambda h: np.minimum(h + 1, 1),
    "quadratic": lambda h: 1 - h**2,
    "extremes": np.abs,
    "upper": lambda h: (h + 1) / 2,
    "uniform": np.zeros_like,
}
"""The value of a standardised loss: (n,) to (n,), both float64. ``linupper`` leaves the easiest
out, ``quadratic`` both ends, ``extremes`` the middle; ``upper`` is the rising one of older code."""


class LossReweighter(
    Algorithm,
    name="loss",
    summary="weights by where a loss stands in its batch: linupper and others",
    paper="Sow et al. 2025, Dynamic Loss-Based Sample Reweighting",
    version=1,
):
    """Weights by the position of a sample's loss within its global batch."""

    strategy: Literal["linupper", "quadratic", "extremes", "upper", "uniform"] = Field(
        default="linupper",
        description="``linupper`` takes weight from samples below the middle of the range, "
        "``quadratic`` from both ends, ``extremes`` from the middle; ``upper`` rises "
        "throughout, and with ``uniform`` each sample counts the same, however many tokens it "
        "has.",
    )
    temperature: Temperature = recipe_default(
        0.4,
        description="Of the softmax over the batch: a small one separates samples, a large one "
        "does not. ``{start: 100, end: 0.4, over: 0.1}`` falls geometrically over a share of "
        "the budget, ``{tokens: n}`` or ``{steps: n}``, counted from the run's first step. "
        "Published: 0.4 for GPT-2, 1.0 for its smallest; the large models' default of 100 is "
        "near uniform.",
    )
    warmup: Duration = recipe_default(
        0.05,
        description="Weights are uniform before: a share of the budget, ``{tokens: n}`` or "
        "``{steps: n}``. Published: 1,000 of 20,000 steps.",
    )

    tails: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="Share of the batch's losses beyond each bound; they are moved to the bound. "
        "Published: 0, the bounds are the least and the greatest. The bounds of 8 losses are on "
        "average where 0.077 of a normal distribution is beyond, of 64 where 0.0095 is.",
    )

    block: int | None = Field(
        default=None,
        ge=2,
        description="Samples of a block: consecutive samples of the global batch with bounds and a "
        "softmax of their own. The batch is divided evenly into blocks of about this size. "
        "Published: the samples of one micro-batch. Default: the whole batch, whose larger sample "
        "of losses gives steadier bounds.",
    )

    def identity(self) -> Mapping[str, Any]:
        if self.strategy == "uniform":
            return {"strategy": "uniform"}
        return {
            **({"tails": self.tails} if self.tails else {}),
            **({"block": self.block} if self.block else {}),
            "strategy": self.strategy,
            "temperature": self.temperature.identity(),
            "warmup": self.warmup.identity(),
        }

    @property
    def requirements(self) -> BatchRequirements:
        return BatchRequirements()

    def is_uniform(self, moment: TrainingProgress) -> bool:
        """Return true during warm-up, and always with the strategy ``uniform``."""
        return self.strategy == "uniform" or self.warmup.passed(moment) < 1

    def weights(self, batch: ScoredBatch) -> np.ndarray:
        """Return ``softmax(f(h) / r)`` of each block, times its share of samples: (n,) float64."""
        count = len(batch.losses)
        if self.is_uniform(batch.moment):
            return np.full(count, 1 / count)
        value, temperature = STRATEGIES[self.strategy], self.temperature.at(batch.moment)
        blocks = np.array_split(batch.losses, max(1, round(count / (self.block or count))))
        return np.concatenate(
            [
                softmax(value(standardised(losses, self.tails)) / temperature)
                * (len(losses) / count)
                for losses in blocks
            ]
        )

    def facts(self, moment: TrainingProgress) -> Mapping[str, float]:
        return {} if self.is_uniform(moment) else {"temperature": self.temperature.at(moment)}

    def state(self) -> Mapping[str, np.ndarray]:
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing: there is no state."""


def standardised(losses: np.ndarray, tails: float = 0.0) -> np.ndarray:
    """Scale losses to [-1, 1], (n,) float64: ``(2 l - (max + min)) / max(max - min, 1e-6)``.

    With ``tails``, min and max are the quantiles that leave this share of the losses beyond each,
    and losses beyond count as min or max.
    The result is invariant to a positive scale and an offset of the losses, as long as their
    range stays above 1e-6. Equal losses all become 0.
    """
    low, high = (float(np.quantile(losses, share)) for share in (tails, 1 - tails))
    losses = np.clip(losses, low, high)
    # Differences first: losses a long way from 0 would lose digits in `high + low`.
    return ((losses - low) - (high - losses)) / max(high - low, _LEAST_RANGE)


def softmax(values: np.ndarray) -> np.ndarray:
    """Compute the softmax, (n,) float64, which sums to 1."""
    powers = np.exp(values - values.max())
    shares: np.ndarray = powers / powers.sum()
    return shares
