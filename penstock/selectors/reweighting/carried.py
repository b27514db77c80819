"""Weights that the documents carry: importance sampling as weights of losses.

Grangier et al. 2024, *Specialized Language Models with Cheap Inference from Limited Domain Data*:
the loss of a document x of cluster c(x) is multiplied by w(c(x)), the target's share of the cluster
over the pool's. ``crisp`` with ``gives: weight`` computes w, ``shards.carry`` brings it to the
trainer, for documents that were drawn without regard to it (``budget.rank: random``).

Each predicted token counts w. So documents of equal weight are trained on as without a reweighter.
Trade-off: weights of a step sum to 1, where the published loss is divided by the number of
documents: a batch without a document of the target's clusters takes a step of the same size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field, PrivateAttr

from penstock.selectors.parameters import Algorithm
from penstock.selectors.reweighting.base import BatchRequirements, ScoredBatch, TrainingProgress

__all__ = ["Carried"]


class Carried(
    Algorithm,
    name="carried",
    summary="weights that documents carry, such as those of crisp",
    paper="Grangier et al. 2024, Specialized Language Models with Cheap Inference",
    version=1,
):
    """Weights by the score of ``shards.carry``, which is of at least 0."""

    missing: Annotated[float, Field(ge=0)] = Field(
        default=1.0,
        description="The weight of a document without a score: 1 is the mean over the pool. The "
        "metrics have the share of predicted tokens in such documents, ``missing_share``.",
    )

    _missing: float = PrivateAttr(default=0.0)

    @property
    def requirements(self) -> BatchRequirements:
        return BatchRequirements(losses=False, carried=True)

    def is_uniform(self, moment: TrainingProgress) -> bool:
        """Return false."""
        return False

    def weights(self, batch: ScoredBatch) -> np.ndarray:
        """Return w times predicted tokens, (n,) float64, normalised by the trainer."""
        assert batch.carried is not None and batch.predicted is not None
        missing = np.isnan(batch.carried)
        self._missing = float(batch.predicted[missing].sum() / batch.predicted.sum())
        weights = np.where(missing, self.missing, batch.carried.astype(np.float64))
        return weights * batch.predicted

    def facts(self, moment: TrainingProgress) -> Mapping[str, float]:
        return {"missing_share": self._missing}

    def state(self) -> Mapping[str, np.ndarray]:
        return {}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Do nothing: there is no state."""
