"""DeepSpeed, kept from compiling anything and configured from a recipe.

Only operators built when DeepSpeed was installed are used. Left alone it would compile a
shared-memory one when a process group starts: 157 s, or an error where there is no compiler.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.recipe_file import override

__all__ = ["check_overrides", "deepspeed_config", "load_deepspeed"]

OWNED = {
    "train_batch_size": "train.batch_tokens",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.batch_tokens and train.micro_batch",
    "gradient_clipping": "train.clip",
    "optimizer": "train.lr, train.betas and train.weight_decay",
    "scheduler": "train.schedule",
}
"""DeepSpeed's keys that Penstock sets itself, and the recipe's keys to use instead."""


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse ``train.deepspeed`` keys that would contradict the rest of the recipe.

    Raises:
        RecipeError: Names the key and what to use instead.
    """
    for key in overrides:
        if key in OWNED:
            raise RecipeError(f"train.deepspeed.{key}: set by Penstock; use {OWNED[key]}")


def deepspeed_config(train: Train, *, accumulation: int, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, with the recipe's ``train.deepspeed`` merged over it."""
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.clip,
        "zero_optimization": {"stage": 0},
        "bf16": {"enabled": bf16},
        "steps_per_print": None,
    }
    return override(ours, train.deepspeed)


def load_deepspeed() -> Any:
    """The ``deepspeed`` module, quiet and with its just-in-time operators off."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    from deepspeed.git_version_info import installed_ops

    deepspeed.ops.__compatible_ops__ = dict(installed_ops)
    return deepspeed
