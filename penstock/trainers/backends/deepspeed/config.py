"""DeepSpeed's configuration: Penstock's, with ``train.deepspeed`` merged over it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.recipe_file import override

__all__ = ["check_overrides", "deepspeed_config"]

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

SECTIONS = (
    "activation_checkpointing",
    "bf16",
    "comms_logger",
    "data_types",
    "flops_profiler",
    "fp16",
    "torch_autocast",
    "zero_optimization",
)
"""DeepSpeed's keys that people use and whose value is a mapping."""

KNOWN = (
    *SECTIONS,
    "communication_data_type",
    "gradient_predivide_factor",
    "prescale_gradients",
    "wall_clock_breakdown",
    "zero_allow_untested_optimizer",
)
"""Keys that people use. DeepSpeed passes over a key that it does not have, so one that is nearly
one of these is taken for a slip; any other is left to DeepSpeed, whose keys are many."""

STAGES = (0, 1, 2, 3)


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse ``train.deepspeed`` keys that contradict the recipe, look like a slip, or would fail
    in a worker after half a minute.

    Raises:
        RecipeError: Names the key, and what to write instead.
    """
    for name, value in overrides.items():
        key = f"train.deepspeed.{name}"
        if name in OWNED:
            raise RecipeError("set by Penstock", key=key, fix=f"use {OWNED[name]}")
        if name not in KNOWN and (near := difflib.get_close_matches(name, KNOWN, 1, 0.8)):
            raise RecipeError(
                "DeepSpeed has no such key and would pass over it",
                key=key,
                fix=f"did you mean {near[0]!r}?",
            )
        if name in SECTIONS and not isinstance(value, Mapping):
            _refuse_section(key, value)
    _check_stage(overrides)
    for name in ("bf16", "fp16"):
        _check_enabled(f"train.deepspeed.{name}.enabled", overrides.get(name, {}))
    if all(overrides.get(name, {}).get("enabled") for name in ("bf16", "fp16")):
        raise RecipeError(
            key="train.deepspeed.fp16.enabled",
            expected="one of bf16 and fp16",
            got="both",
            fix="leave one out",
        )


def _refuse_section(key: str, value: Any) -> None:
    example = "{stage: 1}" if key.endswith("zero_optimization") else "{enabled: true}"
    if isinstance(value, int) and not isinstance(value, bool) and "stage" in example:
        example = f"{{stage: {value}}}"
    elif value is False:
        example = "{enabled: false}"
    raise RecipeError(
        key=key, expected=f"a mapping such as {example}", got=_yaml(value), fix=f"write {example}"
    )


def _check_stage(overrides: Mapping[str, Any]) -> None:
    stage = overrides.get("zero_optimization", {}).get("stage", 0)
    if isinstance(stage, bool) or stage not in STAGES:
        raise RecipeError(
            key="train.deepspeed.zero_optimization.stage",
            expected=f"one of {', '.join(map(str, STAGES))}",
            got=_yaml(stage),
        )


def _check_enabled(key: str, section: Mapping[str, Any]) -> None:
    value = section.get("enabled", False)
    if not isinstance(value, bool):
        raise RecipeError(key=key, expected="true or false", got=_yaml(value))


def _yaml(value: Any) -> str:
    named = {None: "null", True: "true", False: "false"}
    return named[value] if value is None or isinstance(value, bool) else repr(value)


def deepspeed_config(train: Train, *, accumulation: int, bf16: bool) -> dict[str, Any]:
    """Merge the recipe's ``train.deepspeed`` over Penstock's configuration.

    In bfloat16 the stage is 1 unless the recipe names one: it keeps weights in float32 as stage 0
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
