"""DeepSpeed's engine behind the trainer's protocol.

Only operators built when DeepSpeed was installed are used. Left alone it would compile a
shared-memory one when a process group starts: 157 s, or an error where there is no compiler.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch

from penstock.garbage import collection_paused
from penstock.recipe import Train
from penstock.temporary import set_private_caches
from penstock.trainers.backends.base import CanonicalState, adamw
from penstock.trainers.backends.deepspeed import deepspeed_config, resolve_dtype
from penstock.trainers.backends.deepspeed.partitions import restore_state
from penstock.trainers.backends.deepspeed.states import load_state, save_state
from penstock.trainers.checkpoints.verified import VerifiedFiles
from penstock.trainers.group import Group
from penstock.trainers.modelling.model import LanguageModel

__all__ = ["DeepSpeed", "load_deepspeed"]


class DeepSpeed:
    """A :class:`~penstock.trainers.backends.base.Backend` around DeepSpeed's engine."""

    def __init__(self, model: LanguageModel, train: Train, group: Group, accumulation: int) -> None:
        self._deepspeed = load_deepspeed(group.device)
        self.model = model
        self._group = group
        bf16 = resolve_dtype(train, gpus=group.device.type == "cuda") == "bf16"
        self.engine, *_ = self._deepspeed.initialize(
            model=model,
            optimizer=adamw(model.parameters(), train),
            config=deepspeed_config(train, accumulation=accumulation, bf16=bf16),
        )
        _undo_dry_run(self.engine)
        if hasattr(self.engine.optimizer, "check_grad_overflow"):  # stages 1 and 2 in float32
            self.engine.optimizer.check_grad_overflow = True
        self.engine.train()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.engine(*inputs, **options)

    def accumulate(self, loss: torch.Tensor, *, last: bool) -> None:
        """Run the backward pass. DeepSpeed averages over workers; the trainer's losses add up."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self._group.workers, scale_wrt_gas=False)

    def step(self, rate: float) -> float:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        norm = self._float32_norm()
        if norm is not None and not math.isfinite(norm):
            self.engine.zero_grad()
            return math.inf
        self.engine.step()
        if getattr(self.engine.optimizer, "overflow", False):
            # In fp16 the scale of the loss is sought by overflows, which say nothing of the run.
            return math.nan if self.engine.fp16_enabled() else math.inf
        if norm is None:
            norm = self.engine.get_global_grad_norm()
        return math.nan if norm is None else float(norm)

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        gathered: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.engine.zero_optimization_partition_weights():
            gathered = self._deepspeed.zero.GatheredParameters(list(self.model.parameters()))
        return gathered

    def save(self, directory: Path) -> list[str]:
        return save_state(self.engine, directory, self._group.rank)

    def load(self, files: VerifiedFiles, workers: int) -> None:
        load_state(self.engine, files, self._group, workers)

    def restore(self, state: CanonicalState) -> None:
        """Take over weights, moments and steps, at any ZeRO stage.

        Raises:
            TrainingError: DeepSpeed keeps the state in files (NVMe).
        """
        restore_state(self.engine, state)

    def close(self) -> None:
        self.engine.destroy()

    def _float32_norm(self) -> float | None:
        """Compute the norm at stage 0 in float32, where DeepSpeed keeps none."""
        engine = self.engine
        if engine.zero_optimization() or engine.bfloat16_enabled() or engine.fp16_enabled():
            return None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))


def load_deepspeed(device: torch.device) -> Any:
    """Import ``deepspeed`` without its log lines and its just-in-time operators."""
    set_private_caches()
    os.environ["DS_ACCELERATOR"] = device.type
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with collection_paused():
        import deepspeed
        from deepspeed.git_version_info import installed_ops

    deepspeed.ops.__compatible_ops__ = dict(installed_ops)
    return deepspeed


def _undo_dry_run(engine: Any) -> None:
    """Undo the step without gradients by which stage 0 in bfloat16 allocates memory.

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
