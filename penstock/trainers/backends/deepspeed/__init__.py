"""DeepSpeed as a back end: every ZeRO stage, in float32 or bfloat16.

::

    check          ``train.deepspeed`` and the machine             config.py
    start          an engine of DeepSpeed on every worker          engine.py
    read_state     its checkpoint, without an engine               state.py

DeepSpeed itself is imported when an engine starts or a checkpoint is converted.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.trainers.backends.deepspeed.config import check_overrides

if TYPE_CHECKING:
    from penstock.trainers.backends.base import Backend, CanonicalState
    from penstock.trainers.group import Group
    from penstock.trainers.modelling.model import LanguageModel

__all__ = ["check", "read_state", "start"]


def check(train: Train) -> None:
    """Refuse ``train.deepspeed`` keys that DeepSpeed would fail on, and a machine without it.

    Raises:
        RecipeError: Names key, value and fix.
    """
    check_overrides(train.deepspeed)
    if importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(
            "DeepSpeed is not installed",
            key="train.backend",
            got="deepspeed",
            fix="pip install 'penstock[train]', or write `train.backend: torch`",
        )


def start(model: LanguageModel, train: Train, group: Group, accumulation: int) -> Backend:
    """Start DeepSpeed's engine around a model."""
    from penstock.trainers.backends.deepspeed.engine import DeepSpeed

    return DeepSpeed(model, train, group, accumulation)


def read_state(directory: Path, scratch: Path) -> CanonicalState:
    """Read a checkpoint of any ZeRO stage and any number of workers."""
    from penstock.trainers.backends.deepspeed.state import read_state

    return read_state(directory, scratch)
