"""Reweighting: how much each sample of a training batch counts, by its loss or its logits.

:class:`LossReweighter` and :class:`Uds` are built in; :class:`Reweighter` is what a class of
one's own has to be (:mod:`penstock.selectors.reweighting.base`), and a plain function will do.
"""

from penstock.selectors.reweighting.base import (
    DescribingReweighter,
    Reweighter,
    ReweighterPlan,
    ScoredBatch,
    TrainingProgress,
    checked_weights,
    is_describing,
)
from penstock.selectors.reweighting.loss import LossReweighter
from penstock.selectors.reweighting.uds import Uds

__all__ = [
    "DescribingReweighter",
    "LossReweighter",
    "Reweighter",
    "ReweighterPlan",
    "ScoredBatch",
    "TrainingProgress",
    "Uds",
    "checked_weights",
    "is_describing",
]
