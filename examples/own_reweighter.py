"""A reweighter: weights of a training batch's samples, by their losses.

::

    train: {reweight: {use: "own_reweighter:reweight", power: 0.5}}
"""

from __future__ import annotations

import numpy as np


def reweight(losses: np.ndarray, *, power: float = 0.5) -> np.ndarray:
    """Return a weight for each sample, (n,), of which only the ratios matter.

    ``losses`` is (n,) float64, mean nats per token of each sample of the global batch.
    """
    return np.asarray(np.maximum(losses, 1e-6) ** power)
