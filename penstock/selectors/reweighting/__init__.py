"""Reweighting: the weight of each sample of a training batch, by its loss or its logits.

::

    base        the protocol: Reweighter, its inputs, and BatchRequirements
    loss        weights by a loss's position in its batch (Sow et al. 2025)
    carried     weights that the documents carry, such as importance weights of CRISP
    uds         the most useful and diverse part of a batch (UDS, arXiv:2510.16882)
    schedule    warm-up and temperature
    planned     a recipe's reweighter, built on each worker
"""

from penstock.selectors.reweighting.base import (
    BatchRequirements,
    Moment,
    Reweighter,
    ReweighterPlan,
    ScoredBatch,
    TrainingProgress,
    checked_weights,
)
from penstock.selectors.reweighting.carried import Carried
from penstock.selectors.reweighting.loss import LossReweighter
from penstock.selectors.reweighting.uds import Uds

__all__ = [
    "BatchRequirements",
    "Carried",
    "LossReweighter",
    "Moment",
    "Reweighter",
    "ReweighterPlan",
    "ScoredBatch",
    "TrainingProgress",
    "Uds",
    "checked_weights",
]
