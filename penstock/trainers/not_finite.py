"""What follows a step whose loss or gradient is not finite: ``train.not_finite``.

``skip`` goes on with the next batch and the same weights. ``back`` takes those of the newest
checkpoint first, as PaLM did after spikes (Chowdhery et al. 2022, sec. 5.1), so the batches since
the checkpoint do not train the model; if that fails again before a new checkpoint was saved, it
takes the one before. Either way the tokens of the batches are spent, and the batch of a step stays
a function of its number. A run that is killed meets the same steps again when it resumes, and does
the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.errors import TrainingError
from penstock.trainers.backends.base import Backend
from penstock.trainers.checkpoints.saving import Checkpoints
from penstock.trainers.metrics import NotFiniteStep, StepMetrics

__all__ = ["NotFinitePolicy"]

MOST_IN_A_ROW = 10
"""Steps in a row that are not finite after which the weights cannot be what they should."""


@dataclass
class NotFinitePolicy:
    """Skips steps that are not finite, and goes back to checkpoints; all workers have one."""

    policy: str
    """``skip`` or ``back``; with ``stop`` there is no such step."""
    checkpoints: Checkpoints
    in_a_row: int = 0
    before: int | None = None
    """Steps of the checkpoint that was gone back to since the last one was saved."""

    def saved(self) -> None:
        """Note a checkpoint; one of weights that were gone back to is no new one."""
        if not self.in_a_row:
            self.before = None

    def follow(self, step: StepMetrics | NotFiniteStep, backend: Backend) -> None:
        """Do as the policy says after a step, and tell the user.

        Raises:
            TrainingError: Too many steps in a row were not finite, or no checkpoint is left to go
                back to.
        """
        if isinstance(step, NotFiniteStep):
            self.checkpoints.report(self._apply(step, backend))
        else:
            self.in_a_row = 0

    def _apply(self, step: NotFiniteStep, backend: Backend) -> str:
        self.in_a_row += 1
        what = f"step {step.step}: the {step.not_finite} is not finite"
        if self.in_a_row > MOST_IN_A_ROW:
            raise TrainingError(
                f"{self.in_a_row} steps in a row, up to {step.step}, are not finite",
                key="train.not_finite",
                got=self.policy,
                fix="continue from an earlier checkpoint with a lower train.lr: "
                "train.continue_from",
            )
        if self.policy == "skip":
            return f"{what}; its batch is skipped"
        most = step.step if self.before is None else self.before - 1
        found = self.checkpoints.go_back(backend, most)
        if found is None:
            raise TrainingError(
                f"{what}, and there is no checkpoint{' left' * (self.before is not None)} to go "
                "back to",
                key="train.not_finite",
                got=self.policy,
                fix="save checkpoints more often (train.checkpoint), or lower train.lr",
            )
        self.before = found
        return f"{what}; back to the weights of step {found}, on with the batch after it"
