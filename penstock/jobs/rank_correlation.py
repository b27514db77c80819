"""Spearman's rank correlation."""

from __future__ import annotations

import numpy as np

__all__ = ["correlation", "mid_ranks"]


def mid_ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, equal values at the mean of theirs: (n,) to (n,) float64."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    fresh = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(values) else order
    ends = np.r_[fresh[1:], len(values)] if len(values) else order
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((fresh + 1 + ends) / 2, ends - fresh)
    return ranks


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Pearson's correlation of two (n,) arrays; of their ranks it is Spearman's.

    None for fewer than two pairs, and where all values of a side are equal.
    """
    if len(one) < 2:
        return None
    one, other = one - one.mean(), other - other.mean()
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread else None
