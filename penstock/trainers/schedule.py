"""The learning rate as a function of tokens, so that it is the same for every batch size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from penstock.recipe import Train

__all__ = ["LearningRate", "cosine", "linear", "rex"]


def rex(z: float) -> float:
    """Chen et al. 2021, "REX: Revisiting Budgeted Training with an Improved Schedule", eq. 3."""
    return (1 - z) / (0.5 + (1 - z) / 2)


def cosine(z: float) -> float:
    """Loshchilov and Hutter 2017, "SGDR", eq. 5, without restarts."""
    return (1 + math.cos(math.pi * z)) / 2


def linear(z: float) -> float:
    """Straight down from 1 to 0."""
    return 1 - z


SHAPES: dict[str, Callable[[float], float]] = {"rex": rex, "cosine": cosine, "linear": linear}
"""From 1 at z = 0 to 0 at z = 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """A straight rise from 0 to ``peak``, then a shape down to ``floor``."""

    tokens: int
    """Of the whole run."""
    peak: float
    floor: float
    warmup: float
    """Share of the tokens over which the rate rises."""
    shape: str

    @classmethod
    def of(cls, train: Train, tokens: int) -> LearningRate:
        """The schedule that a recipe asks for, over a run of ``tokens``."""
        return cls(
            tokens=tokens,
            peak=train.lr,
            floor=min(train.min_lr, train.lr),
            warmup=train.warmup,
            shape=train.schedule,
        )

    def at(self, tokens: float) -> float:
        """The rate after ``tokens``. A step asks for its own middle, so none trains at rate 0."""
        z = tokens / self.tokens
        if z < self.warmup:
            return self.peak * z / self.warmup
        z = (z - self.warmup) / (1 - self.warmup)
        return self.floor + (self.peak - self.floor) * SHAPES[self.shape](z)
