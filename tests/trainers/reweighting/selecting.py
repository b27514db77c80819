"""A user's reweighter: weights of the three greatest losses, in proportion to them."""

from __future__ import annotations

import numpy as np


def reweight(losses: np.ndarray) -> np.ndarray:
    return np.where(losses >= np.sort(losses)[-3], losses, 0)
