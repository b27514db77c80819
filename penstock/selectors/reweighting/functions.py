"""A plain function as a reweighter: ``def reweight(losses: np.ndarray) -> Sequence[float]``.

It is named in a recipe as ``train.reweight: {use: package.module:function}`` and found as scoring
functions are (:mod:`penstock.selectors.functions`). It gets the mean losses of a global batch's
samples, (n,) float64 in nats, and gives one weight for each, of which only the ratios matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from penstock.errors import ScoringError
from penstock.selectors.functions import PluggedFunction
from penstock.selectors.reweighting.base import BatchRequirements, ScoredBatch, TrainingProgress

__all__ = ["FunctionReweighter"]


class FunctionReweighter(PluggedFunction):
    """Weights by calling a function with the batch's losses."""

    summary: ClassVar[str] = "a function of yours: package.module:function"
    paper: ClassVar[str] = ""
    version: ClassVar[int] = 1

    @property
    def requirements(self) -> BatchRequirements:
        return BatchRequirements()

    def is_uniform(self, moment: TrainingProgress) -> bool:
        """Return false: the weights of a function may always differ."""
        return False

    def weights(self, batch: ScoredBatch) -> np.ndarray:
        """Call the function.

        Raises:
            ScoringError: The function raised.
        """
        try:
            returned = self.function(batch.losses.copy(), **self.parameters)
        except Exception as error:  # it is a plug-in's code
            raise ScoringError(f"{self.use} raised {type(error).__name__}: {error}") from error
        if hasattr(returned, "__array__") or not hasattr(returned, "__iter__"):
            return np.asarray(returned)
        return np.asarray(list(returned))

    def facts(self, moment: TrainingProgress) -> Mapping[str, float]:
        return {}

    def state(self) -> Mapping[str, np.ndarray]:
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing: there is no state."""
