"""Learning rate as a function of tokens, so that it does not depend on the batch size."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from penstock.recipe import ScheduleOf, Train, Uba, Wsd

__all__ = ["cosine", "learning_rate", "linear", "rex", "uba", "wsd"]


def rex(z: float) -> float:
    """Compute eq. 3 of Chen et al. 2021.

    "REX: Revisiting Budgeted Training with an Improved Schedule".
    """
    return (1 - z) / (0.5 + (1 - z) / 2)


def cosine(z: float) -> float:
    """Compute the cosine: Loshchilov and Hutter 2017, "SGDR", eq. 5, without restarts."""
    return (1 + math.cos(math.pi * z)) / 2


def linear(z: float) -> float:
    """Compute a straight line from 1 to 0."""
    return 1 - z


def uba(z: float, phi: float) -> float:
    """Compute 2(1 + cos πz) / (2φ + (2 - φ)(1 + cos πz)): Tang et al. 2025, "Stepsize anything".

    φ = 2 is exactly the cosine; at z = 0.5, φ of 0.5, 1 and 5 give 0.8, 0.667 and 0.286. The paper
    reports about 0.5, the default, for AdamW and 5 for SGD. Some public code of this name computes
    (1 - z)^φ, which is another schedule.
    """
    up = 1 + math.cos(math.pi * z)
    return 2 * up / (2 * phi + (2 - phi) * up)


def wsd(z: float, decay: float) -> float:
    """Compute 1, then a straight line to 0 over the last share ``decay``: warmup-stable-decay.

    Hu et al. 2024, "MiniCPM", sec. 4.2, decay exponentially over 10 %. Here the default is 20 % and
    linear: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", sec. 4, reach the final loss of a cosine with about 20 %, and a straight line
    reaches the floor at the last token without another parameter.
    """
    return min(1.0, (1 - z) / decay)


SHAPES: dict[str, Callable[[float], float]] = {"rex": rex, "cosine": cosine, "linear": linear}
"""Functions from 1 at z = 0 to 0 at z = 1."""


def _shape(train: Train) -> Callable[[float], float]:
    """Return the shape of a recipe's schedule, over the part of the run after the warm-up."""
    chosen = train.schedule
    if not isinstance(chosen, ScheduleOf):
        if chosen in SHAPES:
            return SHAPES[chosen]
        chosen = ScheduleOf(uba=Uba()) if chosen == "uba" else ScheduleOf(wsd=Wsd())
    if chosen.uba:
        return partial(uba, phi=chosen.uba.phi)
    assert chosen.wsd
    return partial(wsd, decay=chosen.wsd.decay / (1 - train.warmup))


def learning_rate(train: Train, tokens: int) -> Callable[[float], float]:
    """Build the schedule of a recipe for a run of ``tokens``.

    Returns:
        The rate after a number of tokens: a straight line from 0 to ``train.lr`` over the warm-up,
        then the shape down to ``train.min_lr``. A step uses that of its middle, which is never 0.
    """
    shape = _shape(train)

    def at(passed: float) -> float:
        z = passed / tokens
        if z < train.warmup:
            return train.lr * z / train.warmup
        z = (z - train.warmup) / (1 - train.warmup)
        return train.min_lr + (train.lr - train.min_lr) * shape(z)

    return at
