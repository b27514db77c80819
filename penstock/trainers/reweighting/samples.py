"""Samples of a global batch: the sequences or documents that have one loss and one weight each.

Samples are numbered in the order of the global batch, which does not depend on the split over
workers. Every worker numbers all of them from the spans of the shards alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from penstock.trainers.data.plan import GlobalBatch
from penstock.trainers.data.shards import ShardSet

__all__ = ["Samples"]


@dataclass(frozen=True, slots=True)
class Samples:
    """``S`` samples of ``n`` sequences of ``length`` tokens."""

    length: int
    first: np.ndarray
    """(n + 1,) int64: the number of each sequence's first sample, and S."""
    starts: np.ndarray
    """(S,) int64: where each sample begins in its sequence."""
    predicted: np.ndarray
    """(S,) int64: number of predicted tokens of each sample."""

    @classmethod
    def of(
        cls, shards: ShardSet, batch: GlobalBatch, sample: Literal["sequence", "document"]
    ) -> Samples:
        """Number the samples of a step."""
        length = shards.sequence_length
        if sample == "sequence":
            labels = shards.predicted(batch.sequences, batch.counted)
            return cls(length, np.arange(len(batch) + 1), np.zeros(len(batch), np.int64), labels)
        starts: list[np.ndarray] = []
        predicted: list[np.ndarray] = []
        for index, counted in zip(batch.sequences.tolist(), batch.counted.tolist()):
            begins = shards.starts(index).astype(np.int64)
            ends = np.minimum(np.append(begins[1:], length), counted)
            starts.append(begins)
            predicted.append(np.maximum(ends - begins - 1, 0))
        first = np.cumsum([0, *map(len, starts)])
        return cls(length, first, np.concatenate(starts), np.concatenate(predicted))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def real(self) -> np.ndarray:
        """(S,) bool: whether a sample has a predicted token."""
        return self.predicted > 0

    @property
    def sequences(self) -> np.ndarray:
        """(S,) int64: index of each sample's sequence in the global batch."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def of_places(self, places: np.ndarray) -> np.ndarray:
        """Return the numbers of the samples of some sequences, in their order: (k,) int64."""
        ranges = [np.arange(*self.first[place : place + 2]) for place in places.tolist()]
        return np.concatenate([np.zeros(0, np.int64), *ranges])

    def sums(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Sum values of tokens over samples.

        Args:
            values: (places, length), a number for each token.
            places: Index of each row's sequence in the global batch.

        Returns:
            (k,) float64, in the order of :meth:`of_places`.
        """
        if not len(places):
            return np.zeros(0)
        found: np.ndarray = np.add.reduceat(values.ravel(), self._begins(places), dtype=np.float64)
        return found

    def over_tokens(self, shares: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Repeat a number of each sample for its tokens: (places, length) float32.

        Args:
            shares: (S,), a number for each sample of the global batch.
            places: As in :meth:`sums`; if empty, the result is one row of zeros.
        """
        if not len(places):
            return np.zeros((1, self.length), np.float32)
        own = shares[self.of_places(places)].astype(np.float32)
        spans = np.diff(np.append(self._begins(places), len(places) * self.length))
        return np.repeat(own, spans).reshape(len(places), self.length)

    def _begins(self, places: np.ndarray) -> np.ndarray:
        """Return where the samples of these sequences begin in the tokens of all of them."""
        rows = np.repeat(np.arange(len(places)), np.diff(self.first)[places])
        begins: np.ndarray = rows * self.length + self.starts[self.of_places(places)]
        return begins
