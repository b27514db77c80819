"""The learning rate as a function of tokens, so that it is the same for every batch size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from penstock.recipe import ScheduleOf, Train, Uba, Wsd

__all__ = ["LearningRate", "cosine", "linear", "rex", "uba", "wsd"]


def rex(z: float) -> float:
    """Chen et al. 2021, "REX: Revisiting Budgeted Training with an Improved Schedule", eq. 3."""
    return (1 - z) / (0.5 + (1 - z) / 2)


def cosine(z: float) -> float:
    """Loshchilov and Hutter 2017, "SGDR", eq. 5, without restarts."""
    return (1 + math.cos(math.pi * z)) / 2


def linear(z: float) -> float:
    """Straight down from 1 to 0."""
    return 1 - z


def uba(z: float, phi: float) -> float:
    """Tang et al. 2025, "Stepsize anything": 2(1 + cos πz) / (2φ + (2 - φ)(1 + cos πz)).

    φ = 2 is exactly the cosine; half-way, φ of 0.5, 1 and 5 stand at 0.8, 0.667 and 0.286. About
    0.5, the default, is reported for AdamW and 5 for SGD. Some public code under this name
    computes (1 - z)^φ, which is another schedule.
    """
    up = 1 + math.cos(math.pi * z)
    return 2 * up / (2 * phi + (2 - phi) * up)


def wsd(z: float, decay: float) -> float:
    """Stable at 1, then straight down to 0 over the last ``decay``.

    Hu et al. 2024, "MiniCPM", sec. 4.2, whose decay is exponential over 10 %. Ours is a fifth and
    linear: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", sec. 4, match a cosine's final loss with about 20 %, and the straight line reaches
    the floor at the last token with no parameter more.
    """
    return min(1.0, (1 - z) / decay)


SHAPES: dict[str, Callable[[float], float]] = {"rex": rex, "cosine": cosine, "linear": linear}
"""From 1 at z = 0 to 0 at z = 1."""


def _shape(train: Train) -> Callable[[float], float]:
    """The shape that a recipe names, over what the warm-up leaves of the run."""
    asked = train.schedule
    if not isinstance(asked, ScheduleOf):
        if asked in SHAPES:
            return SHAPES[asked]
        asked = ScheduleOf(uba=Uba()) if asked == "uba" else ScheduleOf(wsd=Wsd())
    if asked.uba:
        return partial(uba, phi=asked.uba.phi)
    assert asked.wsd
    return partial(wsd, decay=asked.wsd.decay / (1 - train.warmup))


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """A straight rise from 0 to ``peak``, then a shape down to ``floor``."""

    tokens: int
    """Of the whole run."""
    peak: float
    floor: float
    warmup: float
    """Share of the tokens over which the rate rises."""
    shape: Callable[[float], float]
    """From 1 at 0, the end of the warm-up, to 0 at 1, the end of the run."""

    @classmethod
    def of(cls, train: Train, tokens: int) -> LearningRate:
        """The schedule that a recipe asks for, over a run of ``tokens``."""
        return cls(
            tokens=tokens,
            peak=train.lr,
            floor=train.min_lr,
            warmup=train.warmup,
            shape=_shape(train),
        )

    def at(self, tokens: float) -> float:
        """The rate after ``tokens``. A step asks for its own middle, so none trains at rate 0."""
        z = tokens / self.tokens
        if z < self.warmup:
            return self.peak * z / self.warmup
        z = (z - self.warmup) / (1 - self.warmup)
        return self.floor + (self.peak - self.floor) * self.shape(z)
