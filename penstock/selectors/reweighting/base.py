"""The reweighter protocol: a reweighter turns the losses of a batch into weights.

It gets the samples of the whole *global* batch at once, those of every worker and every
accumulation step, in the order of the data and never of the workers. Each worker calls it with
the same numbers, so it must be a function of them, of its parameters and of its state; then all
workers hold the same weights without communication.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from penstock.errors import ScoringError

if TYPE_CHECKING:
    import torch

__all__ = [
    "BatchRequirements",
    "Moment",
    "Reweighter",
    "ReweighterPlan",
    "ScoredBatch",
    "TrainingProgress",
    "checked_weights",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """Progress of a run at the beginning of a step."""

    step: int
    """Number of the step, from 0."""
    tokens: int
    """Tokens of the budget that earlier steps spent."""
    budget: int
    """Tokens of the whole run."""


Moment = TrainingProgress
"""The name in Penstock 0.1, for plug-ins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """The samples of a global batch that have a token to predict; at least one."""

    losses: np.ndarray
    """(n,) float64: each sample's mean over its predicted tokens, in nats; NaN for a reweighter
    without :attr:`BatchRequirements.losses`."""
    moment: TrainingProgress
    features: np.ndarray | None = None
    """(n, k) float32 of :attr:`BatchRequirements.describe`."""
    predicted: np.ndarray | None = None
    """(n,) int64: the predicted tokens of each sample."""
    carried: np.ndarray | None = None
    """(n,) float32, NaN where there is none: the score by ``shards.carry`` of each sample's
    document, where :attr:`BatchRequirements.carried` asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequirements:
    """Requirements of a reweighter on the trainer."""

    losses: bool = True
    """False if weights do not depend on losses: then a step is not scored first."""
    carried: bool = False
    """True if it needs the scores that documents carry (``sample: document``)."""

    describe: Callable[[Sequence[torch.Tensor], torch.Tensor | None], torch.Tensor] | None = None
    """Features of each sample's logits, computed on the worker that holds them.

    ``describe(samples, head)``: for each sample (T, d), a row for each position of the sequence,
    zero where nothing is predicted; the logits are ``sample @ head.T``, with ``head``
    (vocabulary, d) or None where samples are logits already. Returns (samples, features) float32.
    It must depend on each sample alone.
    """


class Reweighter(Protocol):
    """Gives each sample of a global batch its weight in the step's loss.

    Hyperparameters are the constructor's keywords. An instance serves one run.
    """

    @property
    def version(self) -> int:
        """Version, raised whenever the same losses would give other weights."""

    @property
    def requirements(self) -> BatchRequirements:
        """Return all that is needed of the trainer."""

    def identity(self) -> Mapping[str, Any]:
        """Return what the weights depend on besides the losses; no paths."""

    def is_uniform(self, moment: TrainingProgress) -> bool:
        """Return true where all weights are equal for any losses, so that no pass is needed."""

    def weights(self, batch: ScoredBatch) -> np.ndarray:
        """Compute (n,) float64, not negative, with a sum of 1; once for each step that is scored.

        Samples of weight 0 are not trained on.
        """

    def facts(self, moment: TrainingProgress) -> Mapping[str, float]:
        """Return numbers for the metrics of a step, such as ``temperature``."""

    def state(self) -> Mapping[str, np.ndarray]:
        """Return the state from earlier batches, for a checkpoint; empty where there is none."""

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the value of :meth:`state`, on an instance with the same hyperparameters."""


class ReweighterPlan(Protocol):
    """A recipe's reweighter before it is built; it is sent to workers."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Parameters and hashes that a run's weights depend on, without paths."""

    def __call__(self) -> Reweighter:
        """Build a new one, the same on every machine."""


def checked_weights(weights: Any, batch: ScoredBatch, who: str) -> np.ndarray:
    """Check weights; return them as (n,) float64 with a sum of 1 up to rounding.

    Raises:
        ScoringError: They are not one finite, non-negative number for each sample, or sum to 0;
            the message has the step and ``who``, the name of the reweighter.
    """
    key, at = "train.reweight", f"step {batch.moment.step}: {who}"
    count = len(batch.losses)
    try:
        found = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoringError(
            key=key, file=at, expected=f"{count} numbers", got=f"something else: {error}"
        ) from None
    if found.shape != (count,):
        got = str(len(found)) if found.ndim == 1 else f"an array of shape {found.shape}"
        raise ScoringError(
            key=key, file=at, expected=f"{count} weights, one for each sample", got=got
        )
    wrong = ~np.isfinite(found) | (found < 0)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ScoringError(
            key=key,
            file=at,
            expected="finite weights of at least 0",
            got=f"{found[place]} for sample {place}, whose loss is {batch.losses[place]:.4g}",
        )
    total = float(found.sum())
    if not 0 < total < np.inf:
        raise ScoringError(key=key, file=at, expected="weights with a positive sum", got=total)
    return found / total
