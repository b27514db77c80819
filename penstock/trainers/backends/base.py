"""The protocol between the trainer and its back ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from penstock.recipe import Train
from penstock.trainers.backends.dtypes import Dtype
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["MOMENTS", "Backend", "BackendModule", "CanonicalState", "adamw", "restore_adamw"]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's moments: the running means of the gradient and of its square."""


@dataclass(frozen=True, slots=True)
class CanonicalState:
    """Weights and optimiser of a checkpoint in a form that every back end can read.

    The same for any number of workers. Tensors are read one at a time, so that a model need not
    fit into memory once more.
    """

    step: int
    """Steps that the optimiser has taken."""
    read: Callable[[str, str], torch.Tensor]
    """``read(name, kind)``: a float32 tensor of the parameter's shape, on the CPU. ``name`` is of
    the model's ``named_parameters``, ``kind`` is ``weight`` or one of :data:`MOMENTS`; of a matrix
    that Muon updates there is :data:`.muon.MOMENTUM` instead of these."""


class Backend(Protocol):
    """A model and its optimiser on all workers; every method is called by all of them together."""

    model: LanguageModel
    """The weights may be partitioned; :meth:`forward` and :meth:`gathered` join them."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Call the model, as :meth:`.modelling.model.LanguageModel.forward`."""

    def accumulate(self, loss: torch.Tensor, *, last: bool) -> None:
        """Add the gradient of a loss to those of the step.

        Args:
            loss: (), this worker's part of a sum over micro-batches and workers.
            last: The step has no further micro-batch.
        """

    def step(self, rate: float) -> float:
        """Clip the summed gradient, update the weights at a learning rate, and clear the gradient.

        A gradient that is not finite updates nothing.

        Returns:
            The norm of the gradient before clipping; infinity where it is not finite, NaN where
            it is not known.
        """

    def gathered(self) -> AbstractContextManager[None]:
        """Gather all weights on rank 0 within the context, to export them."""

    def save(self, directory: Path) -> list[str]:
        """Write the state into a checkpoint's directory, which rank 0 has made.

        Returns:
            Files that this worker wrote, relative to ``directory``.
        """

    def load(self, files: VerifiedFiles, workers: int) -> None:
        """Read what :meth:`save` wrote, to the bit at an equal number of workers.

        Args:
            files: Those of the checkpoint; no other file may be read, and none in another way.
            workers: Workers that wrote it.

        Raises:
            TrainingError: The back end cannot read it.
        """

    def restore(self, state: CanonicalState) -> None:
        """Take over the state of a checkpoint of another back end, or in another layout.

        Raises:
            TrainingError: The back end cannot, with its settings.
        """

    def close(self) -> None:
        """Free memory, so that another run can follow in this process."""


class BackendModule(Protocol):
    """The module of a back end. Importing it needs none of the back end's own libraries."""

    def check(self, train: Train) -> None:
        """Refuse settings, or a machine, with which this back end cannot start.

        Raises:
            RecipeError: Names key, value and fix.
        """

    def resolve_dtype(self, train: Train, *, gpus: bool) -> Dtype:
        """Return ``train.dtype``, or what ``auto`` is where GPUs train or CPUs do.

        Raises:
            RecipeError: Other settings of the back end contradict it.
        """

    def trajectory(self, train: Train) -> dict[str, Any]:
        """Return keys of ``train`` with the back end's own settings, as they are part of a name.

        Those that change only memory, speed and the layout of the state are left out.
        """

    def layout(self, train: Train) -> str:
        """Return how a checkpoint's state is laid out, for a number of workers, as a text.

        :meth:`Backend.load` reads a state of the same layout; any other is converted, and given to
        :meth:`Backend.restore`. ``train.dtype`` is not ``auto``.
        """

    def start(self, model: LanguageModel, train: Train, group: Group, accumulation: int) -> Backend:
        """Put the model on the group's device, in training mode, with an optimiser.

        Args:
            model: Model in float32; changed in place.
            train: The recipe's settings.
            group: The workers, whose process group is up.
            accumulation: Micro-batches of a whole step on each worker.
        """

    def converted(self, files: VerifiedFiles, scratch: Path) -> VerifiedFiles:
        """Convert a checkpoint that this back end wrote for :meth:`read_state`, if need be.

        Rank 0 calls it, and gives the files that it returns to the others.

        Args:
            files: Those of the checkpoint.
            scratch: A directory that may be filled.
        """

    def read_state(self, files: VerifiedFiles) -> CanonicalState:
        """Read the files that :meth:`converted` returned, without a model."""


def adamw(parameters: Iterable[torch.nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """Return AdamW in PyTorch's fused loop; matrices decay, gains do not."""
    found = list(parameters)
    groups = [
        {"params": [p for p in found if p.dim() > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in found if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)


def restore_adamw(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[tuple[str, torch.nn.Parameter]],
    state: CanonicalState,
) -> None:
    """Give named parameters in float32, and their optimiser, the state of a checkpoint."""
    for name, parameter in parameters:
        parameter.data.copy_(state.read(name, "weight"))
        moments = {kind: state.read(name, kind).to(parameter.device) for kind in MOMENTS}
        step = torch.tensor(float(state.step), device=parameter.device)
        optimizer.state[parameter] = {"step": step, **moments}
