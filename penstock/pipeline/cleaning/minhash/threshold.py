"""Bands and rows of locality-sensitive hashing for a threshold of similarity.

A signature is divided into b bands of r rows. Two texts whose n-grams have Jaccard similarity s
agree in all rows of a band with probability s^r, and in at least one band with 1 - (1 - s^r)^b, an
S-curve (Broder 1997; Leskovec, Rajaraman & Ullman, *Mining of Massive Datasets*, 3.4). Its area
below the threshold is that of false positives, the area above the curve beyond the threshold that
of false negatives. The choice minimises their weighted sum, as datasketch's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from penstock.errors import RecipeError

__all__ = ["Banding", "choose_banding"]

_STEPS = 1000
"""Intervals of the midpoint rule on either side of the threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Banding:
    """Bands, and the rows of each."""

    bands: int
    rows: int

    def probability(self, similarity: np.ndarray | float) -> np.ndarray:
        """Return 1 - (1 - s^r)^b: that a pair of this similarity is found; same shape, float64."""
        similarity = np.asarray(similarity, np.float64)
        found: np.ndarray = 1 - (1 - similarity**self.rows) ** self.bands
        return found


@cache
def choose_banding(
    threshold: float, permutations: int = 128, false_negatives: float = 0.5
) -> Banding:
    """Choose bands and rows.

    Args:
        threshold: Similarity from which pairs should be found, between 0 and 1.
        permutations: Rows in all bands, at most.
        false_negatives: Weight of their area, between 0 and 1; that of false positives is the rest.

    Raises:
        RecipeError: A value is outside its range.
    """
    if not 0 < threshold < 1:
        raise RecipeError(key="threshold", expected="a number between 0 and 1", got=threshold)
    if permutations < 1:
        raise RecipeError(key="permutations", expected="at least 1", got=permutations)
    if not 0 <= false_negatives <= 1:
        raise RecipeError(
            key="false_negatives", expected="a number from 0 to 1", got=false_negatives
        )
    middles = (np.arange(_STEPS) + 0.5) / _STEPS
    below, above = threshold * middles, threshold + (1 - threshold) * middles
    best, least = Banding(bands=1, rows=1), np.inf
    for rows in range(1, permutations + 1):
        for bands in range(1, permutations // rows + 1):
            banding = Banding(bands=bands, rows=rows)
            positives = threshold * banding.probability(below).mean()
            negatives = (1 - threshold) * (1 - banding.probability(above)).mean()
            error = (1 - false_negatives) * positives + false_negatives * negatives
            if error < least:
                best, least = banding, error
    return best
