"""Bands of perplexity: the end, or the middle, that a budget of any size takes.

``low`` and ``high`` score minus and plus the logarithm of a document's perplexity: the best are
one end, however much is taken, and no sample is needed. ``middle`` scores minus the distance of
its quantile in a sample from one half, so that what is taken are equally many documents on both
sides of the median; the logarithm's own distance from the median would not do, since its tails
are not alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors.algorithm import read_array
from penstock.selectors.parameters import fitted

__all__ = ["Band", "BandName"]

BandName = Literal["low", "middle", "high"]

_GRID = 1000
"""Steps in which quantiles of the sample are kept; between them perplexity is interpolated."""


class Band:
    """Turns logarithms of perplexity into scores.

    Args:
        name: ``low``, ``middle`` or ``high``.
        selector: The selector's name, for messages.
    """

    def __init__(self, name: BandName, selector: str) -> None:
        self.name = name
        self.selector = selector
        self.quantiles: np.ndarray | None = None

    @property
    def wants_sample(self) -> bool:
        """True where :meth:`place` must be called before :meth:`scores`."""
        return self.name == "middle"

    def place(
        self, nats: np.ndarray, percents: Sequence[int] = (5, 25, 50, 75, 95)
    ) -> dict[str, float]:
        """Estimate the quantiles, which define the middle.

        Args:
            nats: (n,) float64, logarithms of the perplexities of a sample, in any order.
            percents: The quantiles that are returned.

        Returns:
            Perplexities, by percent.

        Raises:
            SelectorError: There are none.
        """
        self.quantiles = None
        if not len(nats):
            raise SelectorError(key="sample", expected="documents with text to fit on", got="none")
        quantiles = np.quantile(nats, np.linspace(0, 1, _GRID + 1))
        quantiles = np.maximum.accumulate(quantiles)  # rounding may take a last bit off
        self.quantiles = quantiles if self.wants_sample else None
        return {
            f"{percent} %": round(math.exp(quantiles[percent * _GRID // 100]), 2)
            for percent in percents
        }

    def scores(self, nats: np.ndarray) -> np.ndarray:
        """Map logarithms of perplexities, (n,) float64, to scores, (n,) float32; NaN stays NaN."""
        if self.name == "low":
            return (-nats).astype(np.float32)
        if self.name == "high":
            return nats.astype(np.float32)
        quantiles = fitted(self.quantiles, self.selector)
        return (-np.abs(_places(nats, quantiles) - 0.5)).astype(np.float32)

    def save(self, directory: Path) -> None:
        if self.quantiles is not None:
            np.save(directory / "quantiles.npy", self.quantiles)

    def load(self, directory: Path) -> None:
        self.quantiles = None
        if not self.wants_sample:
            return
        quantiles = read_array(directory / "quantiles.npy")
        if quantiles.shape != (_GRID + 1,) or not (np.diff(quantiles) >= 0).all():
            raise ArtefactError(file=directory, expected=f"{_GRID + 1} ascending quantiles")
        self.quantiles = quantiles


def _places(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Locate values in a sample, from 0 to 1: (n,) float64 and ascending (k,) to (n,).

    A value that occurs several times in the sample, as of a repeated text, is located in the
    middle of its range.
    """
    known, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    return np.interp(values, known, (first + (count - 1) / 2) / (len(quantiles) - 1))
