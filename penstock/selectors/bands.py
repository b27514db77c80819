"""Bands of perplexity: which end, or whether the middle, a budget of any size takes.

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

import numpy as np

from penstock.errors import ArtefactError, SelectorError
from penstock.selectors.parameters import one_of

__all__ = ["Band"]

_GRID = 1000
"""Steps in which quantiles of the sample are kept; between them perplexity is interpolated."""


class Band:
    """Turns logarithms of perplexity into scores.

    Args:
        name: ``low``, ``middle`` or ``high``.
        selector: Whose band it is, for messages.
    """

    def __init__(self, name: str, selector: str) -> None:
        self.name = one_of("band", name, "low", "middle", "high")
        self.selector = selector
        self.quantiles: np.ndarray | None = None

    @property
    def wants_sample(self) -> bool:
        """Whether :meth:`place` must be called before :meth:`scores`."""
        return self.name == "middle"

    def place(
        self, nats: np.ndarray, percents: Sequence[int] = (5, 25, 50, 75, 95)
    ) -> dict[str, float]:
        """Learn where the middle is.

        Args:
            nats: (n,) float64, logarithms of the perplexities of a sample, in any order.
            percents: Which of its quantiles are returned.

        Returns:
            Perplexities, by percent.

        Raises:
            SelectorError: There are none.
        """
        self.quantiles = None
        if not len(nats):
            raise SelectorError("sample: expected documents with text to fit on, got none")
        quantiles = np.quantile(nats, np.linspace(0, 1, _GRID + 1))
        quantiles = np.maximum.accumulate(quantiles)  # rounding may take a last bit off
        self.quantiles = quantiles if self.wants_sample else None
        return {
            f"{percent} %": round(math.exp(quantiles[percent * _GRID // 100]), 2)
            for percent in percents
        }

    def scores(self, nats: np.ndarray) -> np.ndarray:
        """(n,) float64, logarithms of perplexities, to (n,) float32; NaN stays NaN."""
        if self.name == "low":
            return (-nats).astype(np.float32)
        if self.name == "high":
            return nats.astype(np.float32)
        if self.quantiles is None:
            raise SelectorError(
                f"{self.selector}: expected a fitted selector; call fit or load first"
            )
        return (-np.abs(_places(nats, self.quantiles) - 0.5)).astype(np.float32)

    def save(self, directory: Path) -> None:
        """Write the quantiles, if there are any."""
        if self.quantiles is not None:
            np.save(directory / "quantiles.npy", self.quantiles)

    def load(self, directory: Path) -> None:
        """Read back what :meth:`save` wrote."""
        self.quantiles = None
        if not self.wants_sample:
            return
        try:
            quantiles = np.load(directory / "quantiles.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{directory}: not a fitted {self.selector}: {error}") from error
        if quantiles.shape != (_GRID + 1,) or not (np.diff(quantiles) >= 0).all():
            raise ArtefactError(f"{directory}: expected {_GRID + 1} ascending quantiles")
        self.quantiles = quantiles


def _places(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Where values lie in a sample, from 0 to 1: (n,) float64 and ascending (k,) to (n,).

    A value that fills a stretch of the sample, a text that is often repeated, lies in its middle.
    """
    known, first, count = np.unique(quantiles, return_index=True, return_counts=True)
    return np.interp(values, known, (first + (count - 1) / 2) / (len(quantiles) - 1))
