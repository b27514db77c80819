"""Back ends of the trainer: the optimiser, the sharing of gradients, and the state of both.

::

    find_backend(name)    the module of a back end, by ``train.backend``
    base.py               Backend, BackendModule, CanonicalState: the protocol
    dtypes.py             train.dtype: bf16 or float32
    deepspeed/            DeepSpeed, every ZeRO stage, float32 and bfloat16
    torch.py              plain PyTorch: one process, or data parallel
    muon.py               train.optimizer: muon, which plain PyTorch has

A back end is one module (or folder) that is a :class:`~base.BackendModule`, and one line below.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from penstock.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from penstock.trainers.backends.base import BackendModule

__all__ = ["BACKENDS", "find_backend"]

BACKENDS = {
    "deepspeed": "penstock.trainers.backends.deepspeed",
    "torch": "penstock.trainers.backends.torch",
}
"""The module of each back end, by the name that a recipe gives it."""


def find_backend(name: str) -> BackendModule:
    """Import the module of a back end; it imports its own libraries when it starts.

    Raises:
        RecipeError: There is no such back end.
    """
    if name not in BACKENDS:
        raise RecipeError(
            key="train.backend",
            expected=f"one of {', '.join(BACKENDS)}",
            got=repr(name),
            fix=did_you_mean(name, BACKENDS).removeprefix("; "),
        )
    return cast("BackendModule", importlib.import_module(BACKENDS[name]))
