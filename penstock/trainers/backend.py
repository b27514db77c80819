"""DeepSpeed, kept from compiling anything and configured from a recipe.

Only operators built when DeepSpeed was installed are used. Left alone it would compile a
shared-memory one when a process group starts: 157 s, or an error where there is no compiler.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.recipe_file import override

__all__ = ["check_overrides", "deepspeed_config", "forget_dry_run", "load_deepspeed"]

OWNED = {
    "train_batch_size": "train.batch_tokens",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.batch_tokens and train.micro_batch",
    "gradient_clipping": "train.clip",
    "optimizer": "train.lr, train.betas and train.weight_decay",
    "scheduler": "train.schedule",
    "checkpoint": "train.checkpoint",
}
"""DeepSpeed's keys that Penstock sets itself, and the recipe's keys to use instead."""


FAMILIAR = (
    "activation_checkpointing",
    "bf16",
    "comms_logger",
    "communication_data_type",
    "data_types",
    "flops_profiler",
    "fp16",
    "gradient_predivide_factor",
    "prescale_gradients",
    "torch_autocast",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
    "zero_optimization",
)
"""Keys that people use. DeepSpeed passes over a key that it does not know, so one that is nearly
one of these is taken for a slip; any other is left to DeepSpeed, whose keys are many."""


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse ``train.deepspeed`` keys that would contradict the recipe, or look like a slip.

    Raises:
        RecipeError: Names the key and what to use instead.
    """
    for key in overrides:
        if key in OWNED:
            raise RecipeError(f"train.deepspeed.{key}: set by Penstock; use {OWNED[key]}")
        if key not in FAMILIAR and (near := difflib.get_close_matches(key, FAMILIAR, 1, 0.8)):
            raise RecipeError(
                f"train.deepspeed.{key}: DeepSpeed has no such key and would pass over it; did you "
                f"mean {near[0]!r}?"
            )


def deepspeed_config(train: Train, *, accumulation: int, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, with the recipe's ``train.deepspeed`` merged over it.

    In bf16 the stage is 1 unless the recipe names one: it keeps weights in float32 as stage 0
    does, and a share of them only.
    """
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.clip,
        "zero_optimization": {"stage": 0},
        "bf16": {"enabled": bf16},
        "steps_per_print": None,
    }
    if override(ours, train.deepspeed)["bf16"].get("enabled"):
        ours["zero_optimization"] = {"stage": 1}
    return override(ours, train.deepspeed)


def forget_dry_run(engine: Any) -> None:
    """Undo the step without gradients that DeepSpeed's stage 0 in bf16 takes to allocate memory.

    It decays the weights and counts as Adam's first: the first real update came out 0.735 times
    as large as it should be, and the next ones too small as well.
    """
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    if isinstance(engine.optimizer, FP16_UnfusedOptimizer):
        pairs = zip(engine.optimizer.fp32_groups, engine.optimizer.fp16_groups)
        for masters, weights in pairs:
            for master, weight in zip(masters, weights):
                master.data.copy_(weight.data)
        engine.optimizer.optimizer.state.clear()


def load_deepspeed() -> Any:
    """The ``deepspeed`` module, quiet and with its just-in-time operators off."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    import deepspeed
    from deepspeed.git_version_info import installed_ops

    deepspeed.ops.__compatible_ops__ = dict(installed_ops)
    return deepspeed
