"""What a reweighter is: something that turns the losses of a batch into weights.

It sees the samples of the whole *global* batch at once, those of every worker and every
accumulation step, in the order of the data and never of the workers. Each worker calls it with
the same numbers, so it must be a function of them, of its parameters and of what it has seen
before; then all workers hold the same weights without another word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeGuard, runtime_checkable

import numpy as np

from penstock.errors import ScoringError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DescribingReweighter",
    "Reweighter",
    "ReweighterPlan",
    "ScoredBatch",
    "TrainingProgress",
    "checked_weights",
    "is_describing",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far a run has come when a step begins."""

    step: int
    """From 0."""
    tokens: int
    """Of the budget that earlier steps spent."""
    budget: int
    """Tokens of the whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """The samples of a global batch that have a token to predict; at least one."""

    losses: np.ndarray
    """(n,) float64: each sample's mean over its predicted tokens, in nats."""
    moment: TrainingProgress
    features: np.ndarray | None = None
    """(n, k) float32 of a :class:`DescribingReweighter`."""


@runtime_checkable
class Reweighter(Protocol):
    """Gives each sample of a global batch its weight in the step's loss.

    Hyperparameters are the constructor's keywords. An instance serves one run.
    """

    summary: ClassVar[str]
    """One line for ``penstock selectors``."""
    paper: ClassVar[str]
    """Where the algorithm is published."""
    version: ClassVar[int]
    """Raised whenever the same losses would give other weights."""

    def identity(self) -> Mapping[str, Any]:
        """What the weights depend on besides the losses; no paths."""
        ...

    def is_uniform(self, moment: TrainingProgress) -> bool:
        """Whether all weights are equal whatever the losses, so that nothing need be scored."""
        ...

    def weights(self, batch: ScoredBatch) -> np.ndarray:
        """(n,) float64, not negative, with a sum of 1; called once for each step that is scored.

        Samples of weight 0 are not trained on.
        """
        ...

    def facts(self, moment: TrainingProgress) -> Mapping[str, float]:
        """Numbers for the metrics of a step, such as ``temperature``."""
        ...

    def state(self) -> Mapping[str, np.ndarray]:
        """What was learned from earlier batches, for a checkpoint; empty where nothing was."""
        ...

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what :meth:`state` gave, on an instance with the same hyperparameters."""
        ...


class ReweighterPlan(Protocol):
    """A reweighter that is yet to be built; travels to workers."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a run's weights depend on; no paths."""
        ...

    def __call__(self) -> Reweighter:
        """A new one, the same wherever it is built."""
        ...


@runtime_checkable
class DescribingReweighter(Reweighter, Protocol):
    """A reweighter that looks at samples' logits, on the worker that has them."""

    @property
    def features(self) -> int:
        """How many numbers describe a sample."""
        ...

    def describe(self, samples: Sequence[torch.Tensor], head: torch.Tensor | None) -> torch.Tensor:
        """What weights are to depend on besides losses.

        Args:
            samples: For each sample (T, d), a row for each place of the sequence, zero where
                nothing is predicted. The logits are ``sample @ head.T``.
            head: (vocabulary, d); None where samples are logits already.

        Returns:
            (samples, features) float32. It must depend on each sample alone.
        """
        ...


def is_describing(reweighter: Reweighter) -> TypeGuard[DescribingReweighter]:
    """Whether a reweighter looks at logits."""
    return callable(getattr(reweighter, "describe", None))


def checked_weights(weights: Any, batch: ScoredBatch, who: str) -> np.ndarray:
    """Weights as (n,) float64 with a sum of 1 to the last bit or so.

    Raises:
        ScoringError: They are not one finite, non-negative number for each sample, or sum to 0;
            the message names the key, the step and who returned them.
    """
    at = f"train.reweight: step {batch.moment.step}: {who}"
    count = len(batch.losses)
    try:
        found = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoringError(f"{at}: expected {count} numbers, got something else: {error}") from None
    if found.shape != (count,):
        got = str(len(found)) if found.ndim == 1 else f"an array of shape {found.shape}"
        raise ScoringError(f"{at}: expected {count} weights, one for each sample, got {got}")
    wrong = ~np.isfinite(found) | (found < 0)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise ScoringError(
            f"{at}: expected finite weights of at least 0, got {found[place]} for sample {place}, "
            f"whose loss is {batch.losses[place]:.4g}"
        )
    total = float(found.sum())
    if not 0 < total < np.inf:
        raise ScoringError(f"{at}: expected weights with a positive sum, got {total}")
    return found / total
