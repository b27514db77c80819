"""Whether the workers of a run compute on GPUs, by ``train.device`` and the GPUs that there are."""

from __future__ import annotations

from penstock.errors import RecipeError
from penstock.recipe import Train

__all__ = ["on_gpus"]


def on_gpus(train: Train, gpus: int, *, of: str, grows: bool = False) -> bool:
    """Decide whether each worker of a run gets a GPU.

    Args:
        train: The settings; ``device`` is ``auto``, ``gpu`` or ``cpu``.
        gpus: GPUs that there are.
        of: The machine or cluster, for the message.
        grows: Nodes may be added, so that ``gpu`` waits for GPUs that are not there yet.

    Raises:
        RecipeError: ``gpu`` where there are too few and none is added, or ``auto`` where there are
            some, and too few: it would leave them idle, or keep some of the workers waiting.
    """
    if train.device == "cpu":
        return False
    if train.device == "gpu" and (grows or gpus >= train.workers):
        return True
    if train.device == "auto" and (gpus == 0 or gpus >= train.workers):
        return gpus > 0
    raise RecipeError(
        f"{of} has {gpus} GPUs for {train.workers} workers",
        key="train.device",
        expected=f"train.workers of at most {gpus}, or train.device: cpu"
        if gpus
        else "train.device: cpu or auto, or a machine with GPUs",
        got=train.device,
    )
