"""A set selector: scores depend on the other documents of a partition, here by their vectors.

::

    select: {apart: {use: "own_set:Apart", parts: 8}}
    budget: {tokens: 500_000, rank: apart}
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Apart:
    """Takes documents that are far from the mean of their partition first."""

    def __init__(self, *, parts: int = 1) -> None:
        self.parts = parts

    @property
    def partitions(self) -> int:
        """Partitions, each of which has to fit the memory of one worker."""
        return self.parts

    def assign(self, vectors: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """Assign each document to a partition, by itself alone: by a hash, or by its vector."""
        return (hashes % np.uint64(self.parts)).astype(np.int64)

    def score(self, partition: Any) -> np.ndarray:
        """Return the rank of each document's distance, between 0 and 1, so that partitions compare.

        ``partition.vectors`` is (n, d) int16 and ``partition.hashes`` (n,) uint64, ascending.
        """
        vectors = partition.vectors.astype(np.float64)
        distances = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
        ranks = np.empty(len(distances), np.float32)
        # Equal distances are in the order of hashes, never in that of the inputs.
        ranks[np.argsort(distances, kind="stable")] = np.arange(1, len(distances) + 1)
        return ranks / np.float32(max(1, len(distances)))
