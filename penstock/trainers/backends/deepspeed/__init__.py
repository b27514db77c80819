"""DeepSpeed as a back end: every ZeRO stage, in float32 or bfloat16.

::

    check          ``train.deepspeed`` and the machine             here
    resolve_dtype, trajectory, layout      of ``train.deepspeed``  here
    start          an engine of DeepSpeed on every worker          engine.py
    restore        a canonical state into ZeRO's partitions        partitions.py
    converted      its checkpoint, of any number of workers        states.py
    read_state     the same, without an engine                     states.py

DeepSpeed itself is imported when an engine starts or a checkpoint is converted.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock.errors import RecipeError
from penstock.recipe import Train
from penstock.recipe_file import override
from penstock.trainers.backends.dtypes import Dtype, default_dtype

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.trainers.backends.base import Backend, CanonicalState
    from penstock.trainers.checkpoints.verified import VerifiedFiles
    from penstock.trainers.group import Group
    from penstock.trainers.modelling.model import LanguageModel

__all__ = [
    "check",
    "converted",
    "deepspeed_config",
    "layout",
    "read_state",
    "resolve_dtype",
    "start",
    "trajectory",
]

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

HOW = frozenset(
    {
        "activation_checkpointing",
        "aio",
        "comms_logger",
        "dump_state",
        "flops_profiler",
        "memory_breakdown",
        "steps_per_print",
        "wall_clock_breakdown",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
    }
)
"""Keys that change memory, speed and logs, but no number of a run beyond rounding; as all of
``zero_optimization`` but its quantised communication."""

CHOICES: dict[tuple[str, str], tuple[int, ...]] = {
    ("zero_optimization", "stage"): (0, 1, 2, 3),
    ("bf16", "enabled"): (True, False),
    ("fp16", "enabled"): (True, False),
}
"""Values of keys within :data:`SECTIONS`; DeepSpeed fails on others after it has started."""


def check(train: Train) -> None:
    """Refuse ``train.deepspeed`` keys that contradict the recipe, look like a slip, or would fail
    in a worker after half a minute, and a machine without DeepSpeed.

    Raises:
        RecipeError: Names key, value and fix.
    """
    overrides = train.deepspeed
    if train.optimizer != "adamw":
        raise RecipeError(
            "this back end has AdamW alone",
            key="train.optimizer",
            expected="adamw",
            got=train.optimizer,
            fix="write `train.backend: torch`",
        )
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
            example = _example(name, value)
            raise RecipeError(
                key=key,
                expected=f"a mapping such as {example}",
                got=_shown(value),
                fix=f"write {example}",
            )
    for (section, name), allowed in CHOICES.items():
        value = overrides.get(section, {}).get(name, allowed[0])
        if value not in allowed or type(value) is not type(allowed[0]):
            raise RecipeError(
                key=f"train.deepspeed.{section}.{name}",
                expected=f"one of {', '.join(map(_shown, allowed))}",
                got=_shown(value),
            )
    if all(overrides.get(name, {}).get("enabled") for name in ("bf16", "fp16")):
        raise RecipeError(
            key="train.deepspeed.fp16.enabled",
            expected="one of bf16 and fp16",
            got="both",
            fix="leave one out",
        )
    resolve_dtype(train, gpus=False)
    if importlib.util.find_spec("deepspeed") is None:
        raise RecipeError(
            "DeepSpeed is not installed",
            key="train.backend",
            got="deepspeed",
            fix="pip install 'penstock[train]', or write `train.backend: torch`",
        )


def resolve_dtype(train: Train, *, gpus: bool) -> Dtype:
    """Return the type of ``train.dtype`` or of ``deepspeed.bf16``; in fp16, float32.

    Raises:
        RecipeError: The two contradict each other.
    """
    half = bool(train.deepspeed.get("fp16", {}).get("enabled"))
    bf16 = train.deepspeed.get("bf16", {}).get("enabled")
    asked: Dtype | None = None
    if half:
        asked = "float32"
    elif bf16 is not None:
        asked = "bf16" if bf16 else "float32"
    if asked is None:
        return default_dtype(train, gpus=gpus)
    if train.dtype not in ("auto", asked):
        raise RecipeError(
            f"contradicts train.deepspeed.{'fp16' if half else 'bf16'}.enabled",
            key="train.dtype",
            expected=asked,
            got=train.dtype,
            fix="leave out one of the two",
        )
    return asked


def trajectory(train: Train) -> dict[str, Any]:
    """Return ``deepspeed`` with the keys that change numbers, without those of the type."""
    own = {key: value for key, value in train.deepspeed.items() if key not in HOW}
    zero = own.pop("zero_optimization", {})
    quantised = {
        key: value
        for key, value in zero.items()
        if value and any(part in key for part in ("quantized", "loco", "zenflow"))
    }
    bf16 = {key: value for key, value in own.pop("bf16", {}).items() if key != "enabled"}
    fp16 = own.pop("fp16", {})
    parts = {
        "zero_optimization": quantised,
        "bf16": bf16,
        "fp16": fp16 if fp16.get("enabled") else {},
    }
    return {"deepspeed": own | {key: value for key, value in parts.items() if value}}


def layout(train: Train) -> str:
    """Return the settings by which DeepSpeed partitions and copies weights and moments."""
    config = deepspeed_config(train, accumulation=1, bf16=train.dtype == "bf16")
    kept = {key: config.get(key) for key in ("zero_optimization", "bf16", "fp16")}
    return json.dumps(kept, sort_keys=True, default=str)


def start(model: LanguageModel, train: Train, group: Group, accumulation: int) -> Backend:
    """Start DeepSpeed's engine around a model."""
    from penstock.trainers.backends.deepspeed.engine import DeepSpeed

    return DeepSpeed(model, train, group, accumulation)


def converted(files: VerifiedFiles, scratch: Path) -> VerifiedFiles:
    """Convert a checkpoint of a ZeRO stage to DeepSpeed's universal format."""
    from penstock.trainers.backends.deepspeed.states import converted

    return converted(files, scratch)


def read_state(files: VerifiedFiles) -> CanonicalState:
    """Read a checkpoint of stage 0, or one that was converted."""
    from penstock.trainers.backends.deepspeed.states import read_state

    return read_state(files)


def _shown(value: Any) -> str:
    """Write a value as YAML does."""
    return json.dumps(value, default=str)


def _example(section: str, value: Any) -> str:
    """Write a section as a mapping that most likely means the same as a value in its place."""
    if section != "zero_optimization":
        return f"{{enabled: {json.dumps(value is not False)}}}"
    return f"{{stage: {value if type(value) is int and value in range(4) else 1}}}"


def deepspeed_config(train: Train, *, accumulation: int, bf16: bool) -> dict[str, Any]:
    """Merge the recipe's ``train.deepspeed`` over Penstock's configuration.

    In bfloat16 the stage is 1 unless the recipe names one: it keeps weights in float32 as stage 0
    does, and a share of them only.
    """
    bf16 = bf16 and not train.deepspeed.get("fp16", {}).get("enabled")
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
