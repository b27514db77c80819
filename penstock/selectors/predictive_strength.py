"""Predictive strength of documents, and the labelled documents that PreSelect learns from."""

from __future__ import annotations

import itertools

import numpy as np

from penstock.errors import SelectorError

__all__ = ["choose_sides", "pairs_in_order"]

_LEAST = 100
"""The minimum number of documents of each label: ten of each are held out."""


def pairs_in_order(nats: np.ndarray) -> np.ndarray:
    """Count the pairs of models that each document's losses put in order; a tie is out of order.

    Args:
        nats: (N, n) float64, a row for each model, from worst to best; in any unit, as long as a
            document's is the same under all models.

    Returns:
        (n,) int64, from 0 to N (N - 1) / 2.
    """
    counts = np.zeros(nats.shape[1], np.int64)
    for worse, better in itertools.combinations(nats, 2):
        counts += worse > better
    return counts


def choose_sides(
    pairs: np.ndarray, most: int, groups: np.ndarray, hashes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Choose rows of positives, and as many negatives of each source, so that none tells a label.

    Negatives climb from strength 0, and are drawn by hash from the last strength they reach.
    Where a source has more positives than other documents, positives are drawn by hash.

    Args:
        pairs: (n,) int64, pairs of models in order.
        most: Number of pairs of models.
        groups: (n,) integers, the source of each document.
        hashes: (n,) uint64.

    Returns:
        (k,) and (k,) int64, source by source.

    Raises:
        SelectorError: There are too few of either to learn from.
    """
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        positives, rest = own[pairs[own] == most], own[pairs[own] < most]
        count = min(len(positives), len(rest))
        sides[0].append(positives[np.argsort(hashes[positives], kind="stable")[:count]])
        sides[1].append(rest[np.lexsort((hashes[rest], pairs[rest]))[:count]])
    chosen, against = (np.concatenate([np.empty(0, np.int64), *side]) for side in sides)
    if len(chosen) < _LEAST:
        strongest = int((pairs == most).sum())
        raise SelectorError(
            key="sample",
            expected=f"at least {_LEAST} documents whose losses put all {most} pairs of models in "
            "order, and as many others of the same sources",
            got=f"{len(chosen)} of {len(pairs):,}, of which {strongest:,} put all pairs in order",
            fix="use a larger sample; where few put all pairs in order, list the models from worst "
            "to best or use fewer; where most do, use models (budgets of a ladder) that are nearer "
            "to each other",
        )
    return chosen, against
